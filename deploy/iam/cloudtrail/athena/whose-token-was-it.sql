-- Which service account's token was behind the reads of a session of IRSA? A session's name is chosen by who holds the
-- token; the token's subject is not. By the access key, so it takes the trail of the role's own account.
SELECT
  reads.workload, tokens.subject, tokens.provider, reads.reference,
  count(*) AS times, max(reads.called_at) AS last_time
FROM secret_reads AS reads
JOIN (
  SELECT
    json_extract_scalar(responseelements, '$.credentials.accessKeyId') AS access_key,
    json_extract_scalar(responseelements, '$.subjectFromWebIdentityToken') AS subject,
    json_extract_scalar(responseelements, '$.provider') AS provider
  FROM cloudtrail_logs
  WHERE eventsource = 'sts.amazonaws.com'
    AND eventname = 'AssumeRoleWithWebIdentity'
    AND errorcode IS NULL
    AND day BETWEEN '2026/11/01' AND '2026/11/30'
) AS tokens
  ON tokens.access_key = reads.access_key
WHERE reads.read
  AND reads.day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY reads.workload, tokens.subject, tokens.provider, reads.reference
ORDER BY last_time DESC;

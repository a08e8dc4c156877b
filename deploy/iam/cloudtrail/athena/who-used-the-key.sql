-- For what was the key behind the secrets used, and by whom? The encryption context says for which secret or parameter,
-- or for which cluster's etcd. It takes a trail that does not leave out KMS.
SELECT
  coalesce(
    json_extract_scalar(requestparameters, '$.encryptionContext.SecretARN'),
    json_extract_scalar(requestparameters, '$.encryptionContext.PARAMETER_ARN'),
    'etcd of ' || json_extract_scalar(requestparameters, '$.encryptionContext.cluster'),
    'nothing that names itself'
  ) AS used_for,
  eventname AS call,
  coalesce(useridentity.invokedby, 'directly') AS through,
  coalesce(useridentity.arn, useridentity.accountid, useridentity.invokedby) AS who,
  errorcode AS error,
  count(*) AS times,
  max(from_iso8601_timestamp(eventtime)) AS last_time
FROM cloudtrail_logs
WHERE eventsource = 'kms.amazonaws.com'
  AND eventname IN ('Decrypt', 'Encrypt', 'GenerateDataKey')
  AND day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY 1, 2, 3, 4, 5
ORDER BY times DESC;

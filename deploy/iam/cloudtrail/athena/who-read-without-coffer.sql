-- Who read these secrets by anything but Coffer: the application itself, a person in the console, stolen credentials?
-- The user agent is what the caller says of itself, so a row is to be looked into and no row is no proof.
SELECT workload, kind, role, account, reference, address, endpoint, count(*) AS times, max(called_at) AS last_time
FROM secret_reads
WHERE read
  AND NOT through_coffer
  AND (
    reference LIKE 'prod/%'
    OR reference LIKE 'arn:aws:secretsmanager:%:secret:prod/%'
    OR reference LIKE '/prod/app%'
  )
  AND day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY workload, kind, role, account, reference, address, endpoint
ORDER BY last_time DESC;

-- Who read this secret, how often, and when last? By its name, or by its ARN with or without the six characters at the
-- end.
SELECT
  workload, kind, role, account, through_coffer,
  count(*) AS times, min(called_at) AS first_time, max(called_at) AS last_time
FROM secret_reads
WHERE read
  AND (
    reference = 'prod/db'
    OR reference LIKE 'arn:aws:secretsmanager:%:secret:prod/db'
    OR reference LIKE 'arn:aws:secretsmanager:%:secret:prod/db-______'
  )
  AND day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY workload, kind, role, account, through_coffer
ORDER BY last_time DESC;

-- Who read this parameter? By its name, its ARN, with a version or label behind it, or by a path above it.
SELECT workload, kind, role, account, through_coffer, call, reference, count(*) AS times, max(called_at) AS last_time
FROM secret_reads
WHERE read
  AND (
    regexp_like(reference, '^(arn:aws:ssm:[^:]*:[0-9]*:parameter)?/prod/app/log-level(:[^:/]+)?$')
    OR (call = 'GetParametersByPath' AND '/prod/app/log-level' LIKE regexp_replace(reference, '/+$', '') || '/%')
  )
  AND day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY workload, kind, role, account, through_coffer, call, reference
ORDER BY last_time DESC;

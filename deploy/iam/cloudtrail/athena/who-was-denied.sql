-- Who asked for what they may not have? A mistake in a policy, or somebody who tries.
SELECT workload, kind, role, reference, call, error, count(*) AS times, max(called_at) AS last_time
FROM secret_reads
WHERE error IN (
    'AccessDenied', 'AccessDeniedException', 'UnauthorizedOperation', 'DecryptionFailure', 'KMSAccessDeniedException'
  )
  AND day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY workload, kind, role, reference, call, error
ORDER BY times DESC;

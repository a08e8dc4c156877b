-- Which secrets and parameters did this workload read? The driver's pods go by NAMESPACE.SERVICEACCOUNT, the sidecar's
-- by NAMESPACE.POD, those of Pod Identity by their role: their sessions name no namespace.
SELECT reference, call, workload, count(*) AS times, min(called_at) AS first_time, max(called_at) AS last_time
FROM secret_reads
WHERE read
  AND (workload = 'shop.api' OR workload LIKE 'shop.api-%' OR (kind = 'pod identity' AND role = 'shop-api'))
  AND day BETWEEN '2026/11/01' AND '2026/11/30'
GROUP BY reference, call, workload
ORDER BY reference, last_time DESC;

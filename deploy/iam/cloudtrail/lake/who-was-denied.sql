-- As ../athena/who-was-denied.sql, for an event data store of CloudTrail Lake: its id in place of $EDS_ID.
SELECT
  userIdentity.arn AS workload, eventName AS call, errorCode AS error, errorMessage AS message,
  count(*) AS times, max(eventTime) AS last_time
FROM $EDS_ID
WHERE eventSource IN ('secretsmanager.amazonaws.com', 'ssm.amazonaws.com')
  AND errorCode IN (
    'AccessDenied', 'AccessDeniedException', 'UnauthorizedOperation', 'DecryptionFailure', 'KMSAccessDeniedException'
  )
  AND eventTime > '2026-11-01 00:00:00'
GROUP BY userIdentity.arn, eventName, errorCode, errorMessage
ORDER BY times DESC

-- As ../athena/who-read-this-secret.sql, for an event data store of CloudTrail Lake: its id in place of $EDS_ID.
SELECT
  coalesce(userIdentity.arn, userIdentity.principalId) AS workload,
  userIdentity.sessionContext.sessionIssuer.userName AS role,
  userAgent LIKE 'coffer/%' AS through_coffer,
  count(*) AS times,
  max(eventTime) AS last_time
FROM $EDS_ID
WHERE eventSource = 'secretsmanager.amazonaws.com'
  AND eventName = 'GetSecretValue'
  AND errorCode IS NULL
  AND (
    element_at(requestParameters, 'secretId') = 'prod/db'
    OR element_at(requestParameters, 'secretId') LIKE 'arn:aws:secretsmanager:%:secret:prod/db'
    OR element_at(requestParameters, 'secretId') LIKE 'arn:aws:secretsmanager:%:secret:prod/db-______'
  )
  AND eventTime > '2026-11-01 00:00:00'
GROUP BY
  coalesce(userIdentity.arn, userIdentity.principalId),
  userIdentity.sessionContext.sessionIssuer.userName,
  userAgent LIKE 'coffer/%'
ORDER BY last_time DESC

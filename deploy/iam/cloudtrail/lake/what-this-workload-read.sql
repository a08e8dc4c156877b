-- As ../athena/what-this-workload-read.sql, for an event data store of CloudTrail Lake: its id in place of $EDS_ID.
SELECT
  eventName AS call,
  coalesce(
    element_at(requestParameters, 'secretId'),
    element_at(requestParameters, 'name'),
    element_at(requestParameters, 'names'),
    element_at(requestParameters, 'path')
  ) AS asked_for,
  userIdentity.arn AS workload,
  count(*) AS times,
  max(eventTime) AS last_time
FROM $EDS_ID
WHERE eventName IN ('GetSecretValue', 'GetParameter', 'GetParameters', 'GetParametersByPath')
  AND errorCode IS NULL
  AND (
    userIdentity.arn LIKE '%/shop.api@coffer'
    OR userIdentity.arn LIKE '%/shop.api-%'
    OR userIdentity.arn LIKE '%:assumed-role/shop-api/eks-%'
  )
  AND eventTime > '2026-11-01 00:00:00'
GROUP BY
  eventName,
  coalesce(
    element_at(requestParameters, 'secretId'),
    element_at(requestParameters, 'name'),
    element_at(requestParameters, 'names'),
    element_at(requestParameters, 'path')
  ),
  userIdentity.arn
ORDER BY last_time DESC

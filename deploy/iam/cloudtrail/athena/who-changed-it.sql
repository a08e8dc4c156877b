-- Who changed this secret, its rotation, its policy, or parameters under this path?
SELECT
  from_iso8601_timestamp(eventtime) AS called_at,
  eventname AS call,
  coalesce(
    json_extract_scalar(requestparameters, '$.secretId'),
    json_extract_scalar(requestparameters, '$.name'),
    json_extract_scalar(additionaleventdata, '$.SecretId'),
    json_format(json_extract(requestparameters, '$.names'))
  ) AS reference,
  coalesce(useridentity.arn, useridentity.invokedby, eventtype) AS who,
  sourceipaddress AS address,
  errorcode AS error
FROM cloudtrail_logs
WHERE day BETWEEN '2026/11/01' AND '2026/11/30'
  AND (
    (
      eventsource = 'secretsmanager.amazonaws.com'
      AND eventname IN (
        'CreateSecret', 'PutSecretValue', 'UpdateSecret', 'UpdateSecretVersionStage',
        'RotateSecret', 'CancelRotateSecret', 'DeleteSecret', 'RestoreSecret', 'PutResourcePolicy', 'DeleteResourcePolicy', 'TagResource', 'UntagResource',
        'RotationSucceeded', 'RotationFailed'
      )
      AND regexp_like(
        coalesce(
          json_extract_scalar(requestparameters, '$.secretId'),
          json_extract_scalar(requestparameters, '$.name'),
          json_extract_scalar(additionaleventdata, '$.SecretId')
        ),
        '^(arn:aws:secretsmanager:[^:]*:[0-9]*:secret:)?prod/db(-[A-Za-z0-9]{6})?$'
      )
    )
    OR (
      eventsource = 'ssm.amazonaws.com'
      AND eventname IN (
        'PutParameter', 'DeleteParameter', 'DeleteParameters', 'LabelParameterVersion', 'UnlabelParameterVersion'
      )
      AND (
        json_extract_scalar(requestparameters, '$.name') LIKE '/prod/app/%'
        OR json_format(json_extract(requestparameters, '$.names')) LIKE '%"/prod/app/%'
      )
    )
  )
ORDER BY called_at DESC;

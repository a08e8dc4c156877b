-- Every look at a secret or a parameter, one row for each that was asked for, with the workload that asked. The
-- questions are put to this view.
CREATE OR REPLACE VIEW secret_reads AS
WITH calls AS (
  SELECT
    day,
    eventtime,
    eventname,
    -- assumed-role/ROLE/SESSION: Coffer names the session, EKS and ECS name theirs.
    -- Of another account's there is no ARN, but ROLEID:SESSION.
    coalesce(split_part(useridentity.arn, '/', 3), split_part(useridentity.principalid, ':', 2)) AS session,
    useridentity.sessioncontext.sessionissuer.username AS role,
    coalesce(useridentity.arn, useridentity.principalid) AS principal,
    useridentity.accountid AS account,
    useridentity.accesskeyid AS access_key,
    useragent,
    sourceipaddress,
    vpcendpointid,
    awsregion,
    requestid,
    errorcode,
    errormessage,
    -- What was asked for, as it was written: names and ARNs. Where a refusal has no parameters, its message names the
    -- resource.
    coalesce(
      CASE eventname
        WHEN 'GetParameters' THEN CAST(json_extract(requestparameters, '$.names') AS ARRAY(VARCHAR))
        WHEN 'GetParametersByPath' THEN ARRAY[json_extract_scalar(requestparameters, '$.path')]
        WHEN 'GetParameter' THEN ARRAY[json_extract_scalar(requestparameters, '$.name')]
        ELSE ARRAY[json_extract_scalar(requestparameters, '$.secretId')]
      END,
      ARRAY[CAST(NULL AS VARCHAR)]
    ) AS asked
  FROM cloudtrail_logs
  WHERE (
      eventsource = 'secretsmanager.amazonaws.com'
      AND eventname IN ('GetSecretValue', 'BatchGetSecretValue', 'DescribeSecret')
    )
    OR (
      eventsource = 'ssm.amazonaws.com'
      AND eventname IN ('GetParameter', 'GetParameters', 'GetParametersByPath')
    )
)
SELECT
  day,
  from_iso8601_timestamp(eventtime) AS called_at,
  eventname AS call,
  coalesce(reference, regexp_extract(errormessage, 'on resource: (\S+)', 1)) AS reference,
  -- BatchGetSecretValue by itself opens nothing, and DescribeSecret reads no value.
  errorcode IS NULL AND eventname NOT IN ('BatchGetSecretValue', 'DescribeSecret') AS read,
  CASE
    WHEN session LIKE '%@coffer' THEN 'csi driver'
    WHEN session LIKE 'eks-%' THEN 'pod identity'
    WHEN regexp_like(session, '^[0-9a-f]{32}$') THEN 'ecs task'
    WHEN regexp_like(session, '^i-[0-9a-f]{8,17}$') THEN 'instance'
    WHEN useragent LIKE 'coffer/%' AND session <> '' THEN 'sidecar'
    ELSE 'other'
  END AS kind,
  -- NAMESPACE.SERVICEACCOUNT of the driver, NAMESPACE.POD of the sidecar, eks-CLUSTER-POD-ID of Pod Identity, the task,
  -- the instance; else whoever it was.
  coalesce(nullif(replace(session, '@coffer', ''), ''), principal) AS workload,
  useragent LIKE 'coffer/%' AS through_coffer,
  role,
  account,
  access_key,
  sourceipaddress AS address,
  vpcendpointid AS endpoint,
  awsregion AS region,
  requestid AS request_id,
  errorcode AS error
FROM calls
CROSS JOIN UNNEST(asked) AS asked_for (reference);

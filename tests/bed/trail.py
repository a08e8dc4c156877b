"""Records as CloudTrail writes them, of what happened one day in the account of the examples.

Their shapes are those of AWS's documentation (CloudTrail User Guide, "CloudTrail record contents"; Secrets Manager User
Guide, "Log with CloudTrail"; IAM User Guide, "Logging IAM and STS API calls"); the names are the examples' own.
"""

import itertools

ACCOUNT, OTHER, REGION = "123456789012", "210987654321", "eu-west-1"
DAY = "2026/11/15"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:prod/db-AbCdEf"
NEIGHBOUR = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:prod/db-admin-AbCdEf"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
COFFER = "coffer/0.1.0 aws-sdk-rust/1.4.0 os/linux lang/rust/1.95.0"
PYTHON = "Boto3/1.42.34 md/Botocore#1.42.34 ua/2.1 os/linux"
# The sessions, as each of them is named by whoever names it.
DRIVER = "shop.api@coffer"
SIDECAR = "shop.api-7d9c5b6f4-x2x7k"
POD_IDENTITY = "eks-prod-api-7d9c5b6f-0b5c9a3e-1f1e-4f6e-9c55-6f0d7f0c2b1a"
NAMESAKE = "eks-prod-api-5f7d8c9b-3c1d2e4f-5a6b-4c7d-8e9f-0a1b2c3d4e5f"
TASK = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
INSTANCE = "i-0123456789abcdef0"

_numbers = itertools.count(1)


def records():
    """All of them, in the order of time."""
    secret, parameter = "secretsmanager", "ssm"
    token = "ASIADRIVERTOKENKEY01"
    return [
        # The driver's session begins with a token of the service account.
        event(
            "sts",
            "AssumeRoleWithWebIdentity",
            "08:00",
            web_identity("shop", "api"),
            COFFER,
            {"roleArn": f"arn:aws:iam::{ACCOUNT}:role/shop-api", "roleSessionName": DRIVER},
            response={
                "credentials": {"accessKeyId": token, "sessionToken": "…"},
                "subjectFromWebIdentityToken": "system:serviceaccount:shop:api",
                "provider": f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.eks.{REGION}.amazonaws.com/id/EXAMPLE",
            },
        ),
        # A batch is an entry for each secret.
        event(secret, "GetSecretValue", "08:01", session(DRIVER, key=token), COFFER, {"secretId": "prod/db"}),
        event(secret, "GetSecretValue", "08:01", session(DRIVER, key=token), COFFER, {"secretId": NEIGHBOUR}),
        event(
            parameter,
            "GetParameters",
            "08:01",
            session(DRIVER, key=token),
            COFFER,
            {"names": ["/prod/app/log-level", "/prod/app/other"], "withDecryption": True},
        ),
        event(secret, "DescribeSecret", "08:02", session(DRIVER, key=token), COFFER, {"secretId": "prod/db"}),
        event(secret, "GetSecretValue", "09:00", session(SIDECAR), COFFER, {"secretId": SECRET}),
        event(secret, "GetSecretValue", "09:30", session(POD_IDENTITY), COFFER, {"secretId": "prod/db"}),
        event(
            parameter,
            "GetParametersByPath",
            "09:31",
            session(POD_IDENTITY),
            COFFER,
            {"path": "/prod/app/", "recursive": True},
        ),
        event(secret, "GetSecretValue", "10:00", session(TASK), COFFER, {"secretId": "prod/db"}),
        # By a role of another account, with the ARN as it has to be there.
        event(secret, "GetSecretValue", "10:30", stranger(SIDECAR), COFFER, {"secretId": SECRET}),
        # One of another namespace's pods by Pod Identity, whose name begins as that of the workload does.
        event(
            secret,
            "GetSecretValue",
            "10:40",
            session(NAMESAKE, role="other-api"),
            COFFER,
            {"secretId": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:other/db-AbCdEf"},
        ),
        # A person, and the instance's role.
        event(
            secret,
            "GetSecretValue",
            "11:00",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"secretId": "prod/db"},
        ),
        event(
            secret,
            "GetSecretValue",
            "11:01",
            session(INSTANCE, role="node"),
            PYTHON,
            {"secretId": SECRET.rsplit("-", 1)[0]},
        ),
        event(
            parameter,
            "GetParameter",
            "11:02",
            session(INSTANCE, role="node"),
            PYTHON,
            {"name": "/prod/app/log-level:3"},
        ),
        # Refused: no parameters, and the resource in the message.
        event(
            secret,
            "GetSecretValue",
            "12:00",
            session("shop.web@coffer", role="shop-web"),
            COFFER,
            None,
            "AccessDenied",
            f"User: arn:aws:sts::{ACCOUNT}:assumed-role/shop-web/shop.web@coffer is not authorized to perform: "
            "secretsmanager:GetSecretValue on resource: prod/db because no identity-based policy allows the action",
        ),
        event(
            parameter,
            "GetParameters",
            "12:01",
            session("shop.web@coffer", role="shop-web"),
            COFFER,
            None,
            "AccessDeniedException",
            f"User: arn:aws:sts::{ACCOUNT}:assumed-role/shop-web/shop.web@coffer is not authorized to perform: "
            f"ssm:GetParameters on resource: arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/prod/app/log-level because",
        ),
        # Changes.
        event(
            secret,
            "PutSecretValue",
            "13:00",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"secretId": "prod/db"},
        ),
        event(
            secret,
            "RotationSucceeded",
            "13:30",
            {"accountId": ACCOUNT, "invokedBy": "secretsmanager.amazonaws.com"},
            "secretsmanager.amazonaws.com",
            None,
            additional={"SecretId": SECRET},
            kind="AwsServiceEvent",
        ),
        event(
            parameter,
            "PutParameter",
            "13:31",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"name": "/prod/app/log-level", "type": "String"},
        ),
        event(
            secret,
            "PutSecretValue",
            "13:32",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"secretId": "prod/db-admin"},
        ),
        event(
            parameter,
            "DeleteParameters",
            "13:33",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"names": ["/prod/app/old", "/elsewhere"]},
        ),
        event(
            parameter,
            "DeleteParameters",
            "13:34",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"names": ["/prod/apple/old"]},
        ),
        # The key: by Secrets Manager, by Parameter Store, by the plugin.
        event(
            "kms",
            "Decrypt",
            "14:00",
            session(DRIVER, invoked_by="secretsmanager.amazonaws.com"),
            "secretsmanager.amazonaws.com",
            {
                "encryptionContext": {"SecretARN": SECRET, "SecretVersionId": "v1"},
                "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
            },
        ),
        event(
            "kms",
            "Decrypt",
            "14:01",
            session(DRIVER, invoked_by="ssm.amazonaws.com"),
            "ssm.amazonaws.com",
            {"encryptionContext": {"PARAMETER_ARN": f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/prod/app/other"}},
        ),
        event(
            "kms",
            "Encrypt",
            "14:02",
            session(INSTANCE, role="prod-control-plane"),
            COFFER,
            {"keyId": KEY, "encryptionContext": {"cluster": "prod"}},
        ),
        event(
            "kms",
            "Decrypt",
            "14:03",
            session("anna@example.com", role="AWSReservedSSO_Admin"),
            PYTHON,
            {"keyId": KEY},
            "AccessDenied",
            "no",
        ),
    ]


def session(name, role="shop-api", key="ASIASOMEOTHERKEY0001", invoked_by=None):
    """Who acts under a role."""
    issuer = {
        "type": "Role",
        "principalId": "AROAEXAMPLE",
        "arn": f"arn:aws:iam::{ACCOUNT}:role/{role}",
        "accountId": ACCOUNT,
        "userName": role,
    }
    identity = {
        "type": "AssumedRole",
        "principalId": f"AROAEXAMPLE:{name}",
        "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{name}",
        "accountId": ACCOUNT,
        "accessKeyId": key,
        "sessionContext": {"sessionIssuer": issuer, "attributes": {"mfaAuthenticated": "false"}},
    }
    return identity | ({"invokedBy": invoked_by} if invoked_by else {})


def stranger(name):
    """Who acts under a role of another account, as the owner of what is read sees it."""
    return {"type": "AWSAccount", "principalId": f"AROAEXAMPLE:{name}", "accountId": OTHER}


def web_identity(namespace, account):
    """Who comes with a token of a service account."""
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.eks.{REGION}.amazonaws.com/id/EXAMPLE"
    subject = f"system:serviceaccount:{namespace}:{account}"
    return {
        "type": "WebIdentityUser",
        "principalId": f"{provider}:sts.amazonaws.com:{subject}",
        "userName": subject,
        "identityProvider": provider,
    }


def event(
    service,
    name,
    at,
    identity,
    agent,
    parameters,
    error=None,
    message=None,
    response=None,
    additional=None,
    kind="AwsApiCall",
):
    number = next(_numbers)
    record = {
        "eventVersion": "1.11",
        "userIdentity": identity,
        "eventTime": f"{DAY.replace('/', '-')}T{at}:00Z",
        "eventSource": f"{service}.amazonaws.com",
        "eventName": name,
        "awsRegion": REGION,
        "sourceIPAddress": identity.get("invokedBy", "10.0.3.17"),
        "userAgent": agent,
        "requestParameters": parameters,
        "responseElements": response,
        "requestID": f"00000000-0000-0000-0000-{number:012}",
        "eventID": f"11111111-0000-0000-0000-{number:012}",
        "eventType": kind,
        "recipientAccountId": ACCOUNT,
        "vpcEndpointId": "vpce-0123456789abcdef0",
    }
    if error:
        record |= {"errorCode": error, "errorMessage": message}
    if additional:
        record["additionalEventData"] = additional
    return record

#!/usr/bin/env python3
"""Asks a running coffer-kms with Python's grpcio, and opens what it wrote with boto3 and cryptography.

The messages are made by hand from the protocol's field numbers, and the formats read from their description
alone: nothing here shares a line with the plugin, nor with the API server. tests/conformance/main.rs runs it.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import traceback
import urllib.parse
from pathlib import Path

PINS = ["boto3==1.44.8", "cryptography==50.0.2", "grpcio==1.85.3"]
BEDS = Path(__file__).resolve().parents[2] / "target" / "testbed"
PATIENCE = 20


def main():
    parser = argparse.ArgumentParser(prog="tests/conformance/kms.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="set the clients up under target/testbed, if they are not there yet")
    check = commands.add_parser("check", help="ask a running plugin; AWS_REGION and AWS_ACCESS_KEY_ID name the account")
    check.add_argument("--kms-endpoint", required=True, help="where KMS is, as http://127.0.0.1:PORT")
    check.add_argument("--key", required=True, help="what the plugin has as --key")
    check.add_argument("--context", default="", help="the encryption context of all sockets, as a=b,c=d")
    check.add_argument("--socket", required=True, help="path of a socket that writes the AWS Encryption Provider's format")
    check.add_argument("--abstract", help="abstract name, with its @, of another such socket")
    check.add_argument("--local-kek", help="path of a socket with --write-format local-kek")
    arguments = parser.parse_args()
    python = install()
    if arguments.command == "install":
        return 0
    if Path(sys.prefix).resolve() != python.parents[1].resolve():
        os.execv(python, [python, *sys.argv])
    return run(arguments)


def install():
    """The Python that has the clients, in an environment made now unless it is there and whole."""
    pins = "\n".join([*PINS, sys.base_prefix, sys.version])
    venv = BEDS / f"kms-clients-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    python, whole = venv / "bin/python", venv / "whole"
    if whole.exists():
        return python
    BEDS.mkdir(parents=True, exist_ok=True)
    with open(BEDS / "kms-clients.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS], check=True)
            whole.touch()
    return python


def run(arguments):
    """Every check, each on its own; 1 if one failed."""
    checks = [
        ("the path as grpcio sends it", lambda: every_call(arguments, f"unix:{arguments.socket}")),
        ("the path with unix://", lambda: every_call(arguments, f"unix://{arguments.socket}")),
        ("the path as it is", lambda: every_call(arguments, f"unix:{arguments.socket}", arguments.socket)),
        ("the path percent-encoded", lambda: every_call(arguments, f"unix:{arguments.socket}", urllib.parse.quote(arguments.socket, safe=""))),
        ("localhost", lambda: every_call(arguments, f"unix:{arguments.socket}", "localhost")),
        ("one connection for many calls", lambda: many_calls(arguments)),
        ("boto3 opens the AWS Encryption Provider's format", lambda: open_aep_format(arguments)),
    ]
    if arguments.abstract:
        target = f"unix-abstract:{arguments.abstract.removeprefix('@')}"
        checks += [
            ("an abstract name as grpcio sends it", lambda: every_call(arguments, target)),
            ("an abstract name as it is", lambda: every_call(arguments, target, arguments.abstract)),
        ]
    if arguments.local_kek:
        checks += [
            ("every call with a local KEK", lambda: every_call(arguments, f"unix:{arguments.local_kek}", key_id=f"{arguments.key}#local-kek")),
            ("boto3 and cryptography open the local KEK's format", lambda: open_local_kek(arguments)),
            ("boto3 and cryptography write the local KEK's format", lambda: write_local_kek(arguments)),
            ("a local KEK's ciphertext holds against changes", lambda: change_local_kek(arguments)),
        ]
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok      {name}")
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}")
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


# gRPC.


class Client:
    """Both services on one socket, with messages as bytes."""

    def __init__(self, target, authority=None):
        import grpc

        # grpcio shares connections between channels that look the same; each of these is to be its own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if authority is not None:
            options.append(("grpc.default_authority", authority))
        self.channel = grpc.insecure_channel(target, options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, method, request, metadata=()):
        call = self.channel.unary_unary(f"/{method}", request_serializer=None, response_deserializer=None)
        return fields(call(message(request), timeout=PATIENCE, metadata=metadata, wait_for_ready=True))

    def version(self):
        return self.call("v1beta1.KeyManagementService/Version", {1: b"v1beta1"})

    def encrypt_v1(self, plain):
        return self.call("v1beta1.KeyManagementService/Encrypt", {1: b"v1beta1", 2: plain})[1]

    def decrypt_v1(self, cipher):
        return self.call("v1beta1.KeyManagementService/Decrypt", {1: b"v1beta1", 2: cipher})[1]

    def status(self, metadata=()):
        return self.call("v2.KeyManagementService/Status", {}, metadata)

    def encrypt_v2(self, plain):
        answer = self.call("v2.KeyManagementService/Encrypt", {1: plain, 2: b"uid"})
        assert 3 not in answer, "there are annotations, which would lie in etcd beside every object"
        return answer[1], answer[2]

    def decrypt_v2(self, ciphertext, key_id):
        return self.call("v2.KeyManagementService/Decrypt", {1: ciphertext, 2: b"uid", 3: key_id})[1]


def message(values):
    """A protobuf message of length-delimited fields."""
    encoded = b""
    for number, value in values.items():
        encoded += varint(number << 3 | 2) + varint(len(value)) + value
    return encoded


def fields(encoded):
    """The fields of a protobuf message that has length-delimited ones only, each at most once."""
    values = {}
    while encoded:
        tag, encoded = read_varint(encoded)
        assert tag & 7 == 2, f"a field of wire type {tag & 7}"
        length, encoded = read_varint(encoded)
        assert tag >> 3 not in values and len(encoded) >= length
        values[tag >> 3], encoded = encoded[:length], encoded[length:]
    return values


def varint(number):
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def read_varint(encoded):
    number = 0
    for count, byte in enumerate(encoded):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return number, encoded[count + 1 :]
    raise ValueError("a varint without an end")


def every_call(arguments, target, authority=None, key_id=None):
    due = (key_id or arguments.key).encode()
    with Client(target, authority) as client:
        version = client.version()
        assert version[1] == b"v1beta1" and version[2] and version[3], version
        status = client.status()
        assert status[1] == b"v2beta1" and status[2] and status[3] == due, status
        plain = os.urandom(32)
        assert client.decrypt_v1(client.encrypt_v1(plain)) == plain
        ciphertext, of_key = client.encrypt_v2(plain)
        assert of_key == due and len(ciphertext) < 1024, (of_key, len(ciphertext))
        assert client.decrypt_v2(ciphertext, of_key) == plain


def many_calls(arguments):
    import grpc

    with Client(f"unix:{arguments.socket}") as client:
        for call in range(200):
            metadata = [("x-call", f"{call:08}"), (f"x-field-{call % 7}", "v" * (call * 15))]
            assert client.status(metadata)[3] == arguments.key.encode()
            if call % 40 == 0:
                try:
                    client.decrypt_v2(b"1" + bytes(200_000), arguments.key.encode())
                    raise AssertionError("200 kB of zeros were decrypted")
                except grpc.RpcError as error:
                    assert error.code() != grpc.StatusCode.INTERNAL, error


# The formats.


def open_aep_format(arguments):
    kms = Kms(arguments)
    with Client(f"unix:{arguments.socket}") as client:
        plain = os.urandom(32)
        for ciphertext in [client.encrypt_v1(plain), client.encrypt_v2(plain)[0]]:
            assert ciphertext[:1] == b"1"
            assert kms.decrypt(ciphertext[1:]) == plain
        written = b"1" + kms.encrypt(plain)
        assert client.decrypt_v1(written) == plain
        assert client.decrypt_v1(written[1:]) == plain
        assert client.decrypt_v2(written, arguments.key.encode()) == plain


MAGIC = b"\xc5\x01"
LABEL = b"coffer-kms local kek v1\0"
NONCE = 12


def open_local_kek(arguments):
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    kms = Kms(arguments)
    with Client(f"unix:{arguments.local_kek}") as client:
        wrapped_keks, nonces = set(), set()
        for size in [32, 32, 1, 64]:
            plain = os.urandom(size)
            for ciphertext in [client.encrypt_v1(plain), client.encrypt_v2(plain)[0]]:
                assert len(ciphertext) < 1024, len(ciphertext)
                header, wrapped, nonce, sealed = parts(ciphertext)
                kek = kms.decrypt(wrapped)
                assert len(kek) == 32
                assert AESGCM(kek).decrypt(nonce, sealed, LABEL + header) == plain
                wrapped_keks.add(wrapped)
                nonces.add(nonce)
        assert len(wrapped_keks) == 1, "each value has a KEK of its own"
        assert len(nonces) == 8, "a nonce came twice"


def write_local_kek(arguments):
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    kms = Kms(arguments)
    kek, plain, nonce = os.urandom(32), os.urandom(32), os.urandom(NONCE)
    wrapped = kms.encrypt(kek)
    header = MAGIC + len(wrapped).to_bytes(2, "big") + wrapped
    ciphertext = header + nonce + AESGCM(kek).encrypt(nonce, plain, LABEL + header)
    # Both formats are read, whichever is written.
    for socket in [arguments.local_kek, arguments.socket]:
        with Client(f"unix:{socket}") as client:
            assert client.decrypt_v1(ciphertext) == plain
            assert client.decrypt_v2(ciphertext, arguments.key.encode()) == plain
            assert client.decrypt_v2(b"1" + kms.encrypt(plain), arguments.key.encode()) == plain


def change_local_kek(arguments):
    import grpc

    with Client(f"unix:{arguments.local_kek}") as client:
        ciphertext, key_id = client.encrypt_v2(os.urandom(32))
        header, _, _, _ = parts(ciphertext)
        start = len(header)
        # Each byte of nonce, ciphertext and tag; of what lies before, one of each part. LocalStack begins what
        # it encrypts with the key's name: one byte changed there is a key that it does not know.
        places = [0, 1, 2, 3, start // 2, start - 1, *range(start, len(ciphertext))]
        changed = [ciphertext[:place] + bytes([ciphertext[place] ^ 1]) + ciphertext[place + 1 :] for place in places]
        changed += [ciphertext[:end] for end in [1, 2, 3, 4, start, start + NONCE, len(ciphertext) - 1]] + [ciphertext + b"\0"]
        for bad in changed:
            try:
                client.decrypt_v2(bad, key_id)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, (bad.hex(), error)
            else:
                raise AssertionError(f"decrypted though changed: {bad.hex()}")


def parts(ciphertext):
    """What the description of the local KEK's format says is in it."""
    assert ciphertext[:2] == MAGIC, ciphertext[:2]
    end = 4 + int.from_bytes(ciphertext[2:4], "big")
    return ciphertext[:end], ciphertext[4:end], ciphertext[end : end + NONCE], ciphertext[end + NONCE :]


class Kms:
    """KMS through boto3, with the key and the context of the plugin."""

    def __init__(self, arguments):
        import boto3

        self.client = boto3.client(
            "kms",
            endpoint_url=arguments.kms_endpoint,
            region_name=os.environ["AWS_REGION"],
            aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key="not-verified",
        )
        self.key = arguments.key
        self.context = dict(pair.split("=", 1) for pair in arguments.context.split(",") if pair)

    def encrypt(self, plain):
        return self.client.encrypt(KeyId=self.key, Plaintext=plain, EncryptionContext=self.context)["CiphertextBlob"]

    def decrypt(self, blob):
        return self.client.decrypt(CiphertextBlob=blob, EncryptionContext=self.context)["Plaintext"]


if __name__ == "__main__":
    sys.exit(main())

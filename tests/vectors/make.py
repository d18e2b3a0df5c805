#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes keyprovider.json and sealedsecret.json with Python's `cryptography`, independently of the
ciphers and signatures of this project.

    python3 -m venv venv && venv/bin/pip install cryptography && venv/bin/python tests/vectors/make.py

Keys, ivs and texts are made from fixed labels; ECDSA signatures are random, so a new run differs in
those alone.
"""
import base64
import hashlib
import json
import pathlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = pathlib.Path(__file__).parent


def made(label, length):
    return hashlib.sha512(label.encode()).digest()[:length]


def b64(data):
    return base64.b64encode(data).decode()


def url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def gcm(key, iv, text):
    return AESGCM(key).encrypt(iv, text, None)


def ctr(key, iv, text):
    encryptor = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return encryptor.update(text) + encryptor.finalize()


# What ocicrypt gives a key provider to wrap: the layer's key, here 7 bytes that are no secret.
TEXT = b'{"x":1}'
KEYS = {"key_id1": made("literal", 32), "default/key/1": made("path", 32)}


def packet(kid, wrap_type, **more):
    key = KEYS["key_id1" if kid == "key_id1" else "default/key/1"]
    iv = made("iv " + wrap_type, 12 if wrap_type == "A256GCM" else 16)
    cipher = gcm if wrap_type == "A256GCM" else ctr
    return {
        "kid": kid,
        "wrapped_data": b64(cipher(key, iv, TEXT)),
        "iv": b64(iv),
        "wrap_type": wrap_type,
        **more,
    }


NEW = {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}}
packets = {
    "G1, the old name of CTR, a plain id": packet("key_id1", "aes_256_ctr"),
    "G2, CTR, a URI": packet("kbs:///default/key/1", "A256CTR"),
    "G2, GCM, a URI with a host": packet("kbs://localhost:8080/default/key/1", "A256GCM"),
    "G3, GCM, without provider": packet("kbs:///default/key/1", "A256GCM", annotations={}),
    "G4, GCM, all members": packet("kbs:///default/key/1", "A256GCM", **NEW),
    "G4, CTR, all members": packet("kbs:///default/key/1", "A256CTR", **NEW),
    "a path": packet("default/key/1", "A256GCM"),
}
(HERE / "keyprovider.json").write_text(
    json.dumps(
        {"keys": {k: b64(v) for k, v in KEYS.items()}, "text": TEXT.decode(), "packets": packets},
        indent=1,
    )
    + "\n"
)


def private_key(curve, label):
    return ec.derive_private_key(int.from_bytes(made(label, 32), "big"), curve)


def jwk(key, name):
    numbers = key.public_key().public_numbers()
    size = (key.curve.key_size + 7) // 8
    return {
        "kty": "EC",
        "crv": name,
        "alg": "ES256",
        "x": url(numbers.x.to_bytes(size, "big")),
        "y": url(numbers.y.to_bytes(size, "big")),
    }


def seal(payload, header, key):
    signed = url(json.dumps(header).encode()) + "." + url(json.dumps(payload).encode())
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    size = (key.curve.key_size + 7) // 8
    return f"sealed.{signed}.{url(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"


def seal_padded(payload, header, key):
    """The same with a payload as confidential-data-hub 0.8.0 read it: padded, and in the standard alphabet."""
    signed = url(json.dumps(header).encode()) + "." + base64.b64encode(json.dumps(payload).encode()).decode()
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"sealed.{signed}.{url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


P256 = private_key(ec.SECP256R1(), "signer")
OTHER = private_key(ec.SECP256R1(), "other signer")
P384 = private_key(ec.SECP384R1(), "another curve")
KID = "kbs:///default/signing-key/1"


def seal_raw(header, payload, key):
    """The same with a header given as text."""
    signed = url(header.encode()) + "." + url(json.dumps(payload).encode())
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"sealed.{signed}.{url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def vault(name, **more):
    return {
        "version": "0.1.0",
        "type": "vault",
        "name": name,
        "provider": "kbs",
        "provider_settings": {},
        "annotations": {},
        **more,
    }


SECRET = vault("kbs:///default/secret/1")
ENVELOPE = {
    "version": "0.1.0",
    "type": "envelope",
    "provider": "aliyun",
    "key_id": "k",
    "encrypted_key": "",
    "encrypted_data": "",
    "wrap_type": "A256GCM",
    "iv": "",
    "provider_settings": {},
    "annotations": {},
}
ES256 = {"alg": "ES256", "kid": KID}
good = seal(SECRET, ES256, P256)
head, payload, signature = good.split(".")[1:]
sealed = {
    "good": good,
    "good, key in a file": seal(SECRET, {"alg": "ES256", "kid": "signer.jwk"}, P256),
    "names a key of the keys file": seal(vault("kbs:///default/key/1"), ES256, P256),
    "names nothing": seal(vault("kbs:///default/secret/none"), ES256, P256),
    "of another provider": seal(vault("kbs:///default/secret/1", provider="aliyun"), ES256, P256),
    "envelope": seal(ENVELOPE, ES256, P256),
    "of an unknown type": seal({**SECRET, "type": "cupboard"}, ES256, P256),
    "by another key": seal(SECRET, ES256, OTHER),
    "alg none": f"sealed.{url(json.dumps({'alg': 'none', 'kid': KID}).encode())}.{payload}.",
    "alg HS256": seal(SECRET, {"alg": "HS256", "kid": KID}, P256),
    "without alg": seal(SECRET, {"kid": KID}, P256),
    "without kid": seal(SECRET, {"alg": "ES256"}, P256),
    "kid of another curve": seal(SECRET, {"alg": "ES256", "kid": "kbs:///default/signing-key/p384"}, P384),
    "kid that is missing": seal(SECRET, {"alg": "ES256", "kid": "kbs:///default/signing-key/none"}, P256),
    "kid that climbs": seal(SECRET, {"alg": "ES256", "kid": "../../../../../../signer.jwk"}, P256),
    "kid that is absolute": seal(SECRET, {"alg": "ES256", "kid": "/etc/signer.jwk"}, P256),
    "kid that is dots": seal(SECRET, {"alg": "ES256", "kid": ".."}, P256),
    "alg twice": seal_raw('{"alg":"none","alg":"ES256","kid":"%s"}' % KID, SECRET, P256),
    "critical extension": seal_raw('{"alg":"ES256","crit":["b64"],"b64":false,"kid":"%s"}' % KID, SECRET, P256),
    "kid of a plugin": seal(SECRET, {"alg": "ES256", "kid": "kbs+x:///a/b/c"}, P256),
    "kid of a missing file": seal(SECRET, {"alg": "ES256", "kid": "missing.jwk"}, P256),
    "signature cut": f"sealed.{head}.{payload}.{signature[:-4]}",
    "signature empty": f"sealed.{head}.{payload}.",
    "payload exchanged": f"sealed.{head}.{url(json.dumps(vault('kbs:///default/other/1')).encode())}.{signature}",
    "placeholder header": f"sealed.fakejwsheader.{payload}.fakesignature",
    # The annotation brings + and / into the payload.
    "good, padded payload": seal_padded({**SECRET, "annotations": {"a": "~~~???>>>"}}, ES256, P256),
}
(HERE / "sealedsecret.json").write_text(
    json.dumps(
        {
            "jwk": jwk(P256, "P-256"),
            "jwk p384": jwk(P384, "P-384"),
            "sealed": sealed,
        },
        indent=1,
    )
    + "\n"
)

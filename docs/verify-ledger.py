#!/usr/bin/env python3
"""Checks an export of Rotor's audit ledger without Rotor: see docs/ledger.md.

    rotor audit export --file ledger.jsonl
    python3 verify-ledger.py ledger.jsonl --fleet-key sha256:<hex>

It needs the standard library of Python 3.8, and the program openssl 3 for the
signatures. Exit code 0: the ledger is as it was written. 1: it is not, and the
first entry that is wrong is named. 2: it could not be checked as a whole.
"""
import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile

TYPE = "rotor-checkpoint+jws"
# SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, 4), up to its 32 bytes.
SPKI = bytes.fromhex("302a300506032b6570032100")


class Broken(Exception):
    """The ledger is not as it was written."""


class Unchecked(Exception):
    """Something that is needed is not there."""


def ordered(value):
    """Returns a value with the members of objects in the order of RFC 8785, 3.2.3."""
    if isinstance(value, dict):
        return {k: ordered(value[k]) for k in sorted(value, key=lambda k: k.encode("utf-16-be"))}
    if isinstance(value, list):
        return [ordered(v) for v in value]
    if isinstance(value, float):
        raise Broken("a number that is no integer")
    return value


def canonical(value):
    """Returns the form of RFC 8785. Entries have no numbers but integers."""
    return json.dumps(ordered(value), separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def ed25519(public, message, signature):
    """Reports whether a signature is good. OpenSSL does the work."""
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for name, content in (("key", SPKI + public), ("message", message), ("signature", signature)):
            names[name] = os.path.join(folder, name)
            with open(names[name], "wb") as f:
                f.write(content)
        try:
            done = subprocess.run(
                ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", names["key"], "-rawin",
                 "-in", names["message"], "-sigfile", names["signature"]],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except FileNotFoundError:
            raise Unchecked("openssl is not installed: the signatures of the checkpoints were NOT checked") from None
    return done.returncode == 0


def checkpoint(signed, pin):
    """Returns the payload of a checkpoint and the pin of the key that has signed it."""
    try:
        head, body, signature = signed.split(".")
        header, payload = json.loads(unbase64(head)), json.loads(unbase64(body))
        public = unbase64(header["jwk"]["x"])
    except (ValueError, KeyError, TypeError):
        raise Broken("it is no JWS in compact form with a key in its header") from None
    if header.get("typ") != TYPE or header.get("alg") != "EdDSA" or header["jwk"].get("crv") != "Ed25519" or len(public) != 32:
        raise Broken("it is no checkpoint, or not signed with Ed25519")
    by = "sha256:" + hashlib.sha256(SPKI + public).hexdigest()
    if pin and by != pin:
        raise Broken("it is signed by %s, and the fleet key is %s" % (by, pin))
    if not ed25519(public, (head + "." + body).encode(), unbase64(signature)):
        raise Broken("its signature is not good")
    return payload, by


class Ledger:
    """What was seen so far."""

    def __init__(self, pin):
        self.pin, self.by = pin, ""
        self.last = {}     # chain -> (seq, hash, line)
        self.hashes = {}   # (chain, seq) -> hash, of what the last checkpoint does not cover
        self.covered = {}  # chain -> seq
        self.claims = {}   # (chain, seq) -> (hash, who says so), of what has not come yet
        self.moved = ""
        self.checkpoints, self.newest = 0, ""

    def add(self, line, text):
        try:
            entry = json.loads(text)
            stated = entry.pop("hash")
            chain, seq = entry["chain"], entry["seq"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Broken("it is no entry") from None
        name = "entry %s of chain %s" % (seq, chain)
        if hashlib.sha256(canonical(entry)).hexdigest() != stated:
            raise Broken("%s was changed: its content does not have its hash" % name)
        before, previous, at = self.last.get(chain, (0, "", 0))
        if seq > before + 1:
            raise Broken("entry %d of chain %s is missing or was moved: %s comes behind %d%s" % (before + 1, chain, name, before, self.moved))
        if seq != before + 1:
            raise Broken("%s comes behind %d: it was moved, or is there twice" % (name, before))
        if entry["previous"] != previous:
            raise Broken("%s does not follow on the entry before it" % name)
        if entry.get("behind", 0) not in (0, at) and not self.moved:
            self.moved = "; entry %d of chain %s lies in line %d, and lay at %d" % (before, chain, at, entry["behind"])
        self.last[chain], self.hashes[chain, seq] = (seq, stated, line), stated
        said = self.claims.pop((chain, seq), None)
        if said and said[0] != stated:
            raise Broken("%s is not the one that %s has signed: the chain was made anew" % (name, said[1]))
        if "checkpoint" in entry:
            self.check(entry["checkpoint"], "the checkpoint in " + name)

    def check(self, signed, who):
        try:
            payload, self.by = checkpoint(signed, self.pin or self.by)
        except Broken as e:
            raise Broken("%s: %s" % (who, e)) from None
        for chain, head in payload["heads"].items():
            seq = head["seq"]
            if self.last.get(chain, (0,))[0] < seq:
                self.claims[chain, seq] = (head["hash"], who)
            elif self.hashes.get((chain, seq), head["hash"]) != head["hash"]:
                raise Broken("entry %d of chain %s is not the one that %s has signed: the chain was made anew" % (seq, chain, who))
            elif self.last[chain][0] == seq and self.last[chain][2] != head["position"] and not self.moved:
                self.moved = "; entry %d of chain %s lies in line %d, and lay at %d" % (seq, chain, self.last[chain][2], head["position"])
            if seq < self.covered.get(chain, 0):
                raise Broken("%s covers less of chain %s than one before it" % (who, chain))
            self.covered[chain] = seq
            self.hashes = {k: v for k, v in self.hashes.items() if k[0] != chain or k[1] >= seq}
        self.checkpoints, self.newest = self.checkpoints + 1, payload["at"]

    def finish(self):
        for (chain, seq), (_, who) in sorted(self.claims.items()):
            raise Broken("entry %d of chain %s is missing: %s has signed entry %d: the end was cut off" % (self.last.get(chain, (0,))[0] + 1, chain, who, seq))
        if self.moved:
            raise Broken(self.moved.lstrip("; ") + ": it was moved, or something before it was put in or left out")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("export", help="file that rotor audit export has written")
    arguments.add_argument("--fleet-key", default="", help="pin of the fleet key, as agents have it: sha256:<hex>")
    options = arguments.parse_args()
    ledger, line = Ledger(options.fleet_key), 0
    try:
        with open(options.export, encoding="utf-8") as f:
            for line, text in enumerate(f, 1):
                ledger.add(line, text)
        ledger.finish()
    except Broken as e:
        print("%s:%d: the ledger is not as it was written: %s" % (options.export, line, e), file=sys.stderr)
        return 1
    except (Unchecked, OSError, UnicodeDecodeError) as e:
        print("%s: not checked: %s" % (options.export, e), file=sys.stderr)
        return 2
    for chain, (seq, stated, _) in sorted(ledger.last.items()):
        print("%s: %d entries, covered by checkpoints to %d, last hash %s" % (chain, seq, ledger.covered.get(chain, 0), stated))
    if ledger.checkpoints:
        print("%d checkpoints, the newest of %s, signed by %s%s" % (
            ledger.checkpoints, ledger.newest, ledger.by, "" if ledger.pin else ": compare it with the pin that agents have"))
    else:
        print("no checkpoint: whether the end was cut off is not known")
    print("ok: %d entries in %d chains" % (line, len(ledger.last)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

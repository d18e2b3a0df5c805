#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""launch_plan.py LEVEL [--extension ROOT] [NAME=VALUE...]: which processes kata-agent starts, as JSON

This follows kata-agent of August 2026 (kata-containers 7c6ba40c). With an extension image, whose files are below ROOT, the
plan is what its manifest says; without one it is kata-agent's own. LEVEL is 1 for the attestation-agent, 2 for the
confidential-data-hub too, 3 for the api-server-rest too. NAME=VALUE sets a variable of the manifest.

kata-agent ignores keys that it does not know. Here they are errors, because each would be a mistake.
"""
import json
import pathlib
import sys
import tomllib

MOUNT_POINT = "/run/kata-extensions/coco"
MANIFEST = "etc/kata-extensions/components.toml"
RUN = "/run/confidential-containers"
BIN = "/usr/local/bin"
# By a name of the manifest's [paths], where the file is without an extension image.
OUTSIDE = {"ocicrypt-config": "/etc/ocicrypt_config.json", "pause-bundle": "/pause_bundle"}

PROCESS = {
    "id": str,
    "level": int,
    "path": str,
    "select": str,
    "variants": dict,
    "args": list,
    "optional_args": list,
    "config": str,
    "env": dict,
    "wait_socket": str,
    "timeout_secs": str,
}
VARIANT = {"path": str, "args": list, "env": dict}
OPTIONAL_ARGS = {"when": str, "args": list}


class Mistake(Exception):
    """What kata-agent would not start with, or would ignore."""


def checked(table, types, what):
    """The table, if it has keys and values of these kinds only."""
    for key, value in table.items():
        if key not in types:
            raise Mistake(f"{what}: kata-agent knows no key {key}")
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise Mistake(f"{what}: {key} must be a {types[key].__name__}")
        for text in value if isinstance(value, list) else ():
            if key == "args" and not isinstance(text, str):
                raise Mistake(f"{what}: {key} must have strings")
    return table


def below(root, path, what):
    """The absolute path of what a manifest names."""
    parts = [part for part in path.strip().split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise Mistake(f"{what}: {path!r} is no path below the extension image")
    return "/".join([root, *parts])


def filled(text, variables):
    """The text with the values of its variables."""
    done = ""
    while "${" in text:
        before, _, text = text.partition("${")
        name, end, text = text.partition("}")
        if not end or name not in variables:
            raise Mistake(f"kata-agent knows no variable {name}")
        done += before + variables[name]
    return done + text


def read_manifest(root):
    text = pathlib.Path(root, MANIFEST).read_text()
    manifest = checked(tomllib.loads(text), {"schema_version": int, "paths": dict, "process": list}, "the manifest")
    if manifest.get("schema_version") != 1:
        raise Mistake("the manifest's schema_version is not 1")
    return manifest


def component_path(manifest, name):
    """Where kata-agent finds a file that it reads itself."""
    if manifest is None:
        return OUTSIDE[name]
    if name not in manifest.get("paths", {}):
        raise Mistake(f"the manifest's paths have no {name}")
    return below(MOUNT_POINT, manifest["paths"][name], name)


def default_variables(manifest):
    return {
        "aa_attestation_uri": f"unix://{RUN}/attestation-agent/attestation-agent.sock",
        "aa_attestation_socket": f"{RUN}/attestation-agent/attestation-agent.sock",
        "aa_config_path": f"{RUN}/initdata/aa.toml",
        "cdh_config_path": f"{RUN}/initdata/cdh.toml",
        "cdh_socket": f"{RUN}/cdh.sock",
        "ocicrypt_config_path": component_path(manifest, "ocicrypt-config"),
        "rest_api_features": "resource",
        "launch_process_timeout": "6",
        "initdata_toml_path": "",
        "extension_root": MOUNT_POINT,
        "attester_variant": "default",
    }


def process_of(raw, variables):
    """What kata-agent starts for a process of a manifest."""
    what = raw.get("id", "a process without id")
    variant = {}
    if raw.get("variants"):
        name = filled(raw.get("select", ""), variables) or "default"
        if name not in raw["variants"]:
            raise Mistake(f"{what} has no variant {name}")
        variant = checked(raw["variants"][name], VARIANT, f"the variant {name} of {what}")
    path = variant.get("path", raw.get("path"))
    if path is None:
        raise Mistake(f"{what} has no path")
    args = list(raw.get("args", []))
    for group in raw.get("optional_args", []):
        checked(group, OPTIONAL_ARGS, f"an entry of optional_args of {what}")
        if variables.get(group["when"]):
            args += group["args"]
    args += variant.get("args", [])
    env = {**raw.get("env", {}), **variant.get("env", {})}
    return {
        "id": raw["id"],
        "path": below(MOUNT_POINT, filled(path, variables), what),
        "args": [filled(text, variables) for text in args],
        "config": filled(raw.get("config", ""), variables),
        "env": {name: filled(text, variables) for name, text in sorted(env.items())},
        "wait_socket": filled(raw.get("wait_socket", ""), variables),
        "timeout_secs": int(filled(raw.get("timeout_secs", ""), variables) or 0),
    }


def own_plan(variables):
    """kata-agent's plan without an extension image."""

    def process(name, args, **more):
        empty = {"config": "", "env": {}, "wait_socket": "", "timeout_secs": 0}
        return {"id": name, "path": f"{BIN}/{name}", "args": args, **empty, **more}

    patience = int(variables["launch_process_timeout"])
    initdata = variables["initdata_toml_path"]
    return [
        process(
            "attestation-agent",
            ["--attestation_sock", variables["aa_attestation_uri"], *(["--initdata-toml", initdata] if initdata else [])],
            config=variables["aa_config_path"],
            wait_socket=variables["aa_attestation_socket"],
            timeout_secs=patience,
        ),
        process(
            "confidential-data-hub",
            [],
            config=variables["cdh_config_path"],
            env={"OCICRYPT_KEYPROVIDER_CONFIG": variables["ocicrypt_config_path"]},
            wait_socket=variables["cdh_socket"],
            timeout_secs=patience,
        ),
        process("api-server-rest", ["--features", variables["rest_api_features"]]),
    ]


def plan(level, root=None, given=None):
    """The processes up to this level, in the order in which they are started."""
    manifest = None if root is None else read_manifest(root)
    variables = {**default_variables(manifest), **(given or {})}
    # kata-agent asks for it when the first sandbox is made.
    component_path(manifest, "pause-bundle")
    if manifest is None:
        return own_plan(variables)[:level]
    processes = [checked(raw, PROCESS, raw.get("id", "a process")) for raw in manifest.get("process", [])]
    return [process_of(raw, variables) for raw in processes if 0 < raw.get("level", 0) <= level]


def main():
    words = sys.argv[1:]
    level = int(words.pop(0))
    root = None
    if words[:1] == ["--extension"]:
        root = words[1]
        words = words[2:]
    print(json.dumps(plan(level, root, dict(word.split("=", 1) for word in words)), indent=1))


if __name__ == "__main__":
    try:
        main()
    except Mistake as mistake:
        sys.exit(f"launch_plan.py: {mistake}")

"""Generate ``rds_csi/csi/`` from the protos here: ``python protos/generate.py DIRECTORY`` (nox -s proto)."""

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.internal import decoder

HERE = Path(__file__).parent
PROTOS = ("csi.proto", "pluginregistration.proto")
# Where each proto's Python package lies in what betterproto writes, and in the target.
PACKAGES = {"csi/v1": "v1", "pluginregistration": "pluginregistration"}
# extend google.protobuf.FieldOptions { bool csi_secret = 1059; } in csi.proto
CSI_SECRET = 1059

INIT = '"""Generated from protos/ by `nox -s proto`; never edited."""\n'
SECRETS = '''"""Generated from protos/ by `nox -s proto`; never edited.

Which fields of which message carry the option ``csi_secret``: their values are never logged.
"""

SECRET_FIELDS: dict[str, frozenset[str]] = {{
{entries}}}
'''


def is_secret(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    """Whether the field's options have csi_secret set, read from the wire: the extension is not compiled in."""
    data = field.options.SerializeToString()
    position = 0
    while position < len(data):
        key, position = decoder._DecodeVarint(data, position)
        if key & 7 != 0:
            raise SystemExit(f"{field.name}: an option of an unknown wire type")
        value, position = decoder._DecodeVarint(data, position)
        if key >> 3 == CSI_SECRET:
            return bool(value)
    return False


def secret_fields(descriptors: bytes) -> str:
    """The module text that lists every secret field of the proto."""
    entries = ""
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        for message in file.message_type if file.package == "csi.v1" else ():
            names = sorted(field.name for field in message.field if is_secret(field))
            if names:
                entries += f'    "{message.name}": frozenset({{{", ".join(repr(n) for n in names)}}}),\n'.replace(
                    "'", '"'
                )
    return SECRETS.format(entries=entries)


def main(target: Path) -> None:
    """Write the package into ``target`` (made when missing)."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                sys.executable,
                *("-m", "grpc_tools.protoc", f"-I{HERE}", f"-I{files('grpc_tools') / '_proto'}"),
                f"--python_betterproto_out={scratch}",
                f"--descriptor_set_out={scratch}/descriptors",
                *(str(HERE / proto) for proto in PROTOS),
            ],
            check=True,
        )
        generated = {
            place: (Path(scratch) / package / "__init__.py").read_text() for package, place in PACKAGES.items()
        }
        descriptors = (Path(scratch) / "descriptors").read_bytes()
    for place, module in generated.items():
        (target / place).mkdir(parents=True, exist_ok=True)
        (target / place / "__init__.py").write_text(module)
    (target / "__init__.py").write_text(INIT)
    (target / "secrets.py").write_text(secret_fields(descriptors))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

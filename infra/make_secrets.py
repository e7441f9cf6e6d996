"""Write the random passwords and keys that ``compose.yaml`` mounts, one file each; what is there stays."""

# ruff: noqa: INP001 - a program, not a package

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"


def make_secrets(folder: Path) -> list[str]:
    """Write the files that are missing and return their names.

    The folder is for its owner only; the files are for everybody, because the containers' user is
    another one than the host's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    made: list[str] = []

    def write(name: str, text: str) -> None:
        path = folder / name
        if not path.exists():
            path.write_text(text, encoding="ascii")
            path.chmod(0o644)
            made.append(name)

    for role in ("postgres", "prescore", "airflow", "valkey"):
        write(f"{role}_password", secrets.token_hex(24))
    password = {
        role: (folder / f"{role}_password").read_text(encoding="ascii")
        for role in ("prescore", "airflow", "valkey")
    }
    write("catalogue_url", f"postgresql+psycopg://prescore:{password['prescore']}@postgres/prescore")
    write("airflow_database_url", f"postgresql+psycopg://airflow:{password['airflow']}@postgres/airflow")
    write("store_url", f"redis://prescore:{password['valkey']}@valkey:6379/0")
    write(
        "valkey_acl",
        "user default off\nuser health on nopass resetkeys resetchannels -@all +ping\n"
        f"user prescore on >{password['valkey']} ~* resetchannels +@all -@admin -flushall -flushdb\n",
    )
    write("airflow_fernet_key", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    write("airflow_jwt_secret", secrets.token_urlsafe(48))
    write("airflow_api_secret", secrets.token_urlsafe(48))
    return made


if __name__ == "__main__":
    written = make_secrets(FOLDER)
    sys.stdout.write(f"{FOLDER}: wrote {', '.join(written) if written else 'nothing, all is there'}\n")

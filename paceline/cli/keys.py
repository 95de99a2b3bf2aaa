"""`paceline keys`: who may use a server from another machine. Secrets are in the files that it makes, nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.terminal import columns, say, say_json, styled

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The server's key folder (native_keys).")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The client's name, for you to know it by.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def keys_new(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Make a server's key folder, with no client allowed yet."""
    from paceline.protocol.key_folder import create

    public = create(folder).decode()
    if as_json:
        say_json({"folder": str(folder), "public": public})
        return
    say(f"made {folder} with the server's keys; no client is allowed yet")
    say(f"  {styled('let one in', 'bold')}  paceline keys client {folder} NAME")
    flags = f"--native-listen tcp://0.0.0.0:7400 --native-keys {folder}"
    say(f"  {styled('serve', 'bold')}       paceline serve TAG {flags}")


def keys_client(
    folder: FolderArgument,
    name: NameArgument,
    out: Annotated[Path | None, typer.Option(help="Where to write the client's file [default: in DIR].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a client's keys, allow it, and name the file to hand over."""
    from paceline.protocol.key_folder import admit

    file = admit(folder, name, out)
    if as_json:
        say_json({"name": name, "key_file": str(file)})
        return
    say(f"{name} is allowed; hand over this file by a safe way, then delete it here:")
    say(f"  {styled(str(file), 'bold')}")
    say(f'  paceline.Client("tcp://HOST:7400", key_file="{file.name}")')


def keys_list(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """List the clients that are allowed, with their public keys."""
    from paceline.protocol.key_folder import allowed_clients

    clients = allowed_clients(folder)
    if as_json:
        say_json([{"name": client.name, "public": client.public, "file": str(client.file)} for client in clients])
    elif clients:
        columns(("name", "public key"), [(client.name, client.public) for client in clients])
    else:
        say(f"no client is allowed; let one in with: paceline keys client {folder} NAME", err=True)


def keys_revoke(folder: FolderArgument, name: NameArgument, as_json: JsonOption = False) -> None:
    """Allow a client no longer; running servers see it within a second."""
    from paceline.protocol.key_folder import revoke

    revoke(folder, name)
    if as_json:
        say_json({"revoked": name})
    else:
        say(f"revoked {name}; running servers see it within a second")

"""Write the texts of the carry-in kit: README, default arguments, service and start script.

Their templates are in templates/; @word@ is replaced by a fact.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from kuwa_min.bundle.manifest import Manifest, Target, describe, size_text
from kuwa_min.bundle.signed_kit import NAMESPACE, SIGNATURE, SIGNERS, SUMS, fingerprint
from kuwa_min.chat.modelfile import is_unicode
from kuwa_min.errors import UsageError
from kuwa_min.registry import backend_infos

TEMPLATES = Path(__file__).with_name("templates")
TEXTS = {  # file of the kit -> its template
    "README.md": "readme.txt",
    "kuwa.args": "args.txt",
    "kuwa.service": "service.txt",
    "start.sh": "start.txt",
}
BESIDE = {  # suffix of a document beside the built file -> what it is, in both languages
    ".sha256": ("its hash", "它的雜湊值"),
    ".cdx.json": ("what it is made of, for tools: CycloneDX", "它的組成，供工具讀取：CycloneDX"),
    ".licenses.txt": ("the licences of what is inside", "內含套件的授權條款"),
}
UNPACKED = {
    "disk_en": "the first start unpacks {files:,} files, {size}, into `~/.cache/kuwa`; later ones "
    "use them as they lie. `KUWA_MIN_ROOT` names another place. Where the home cannot be written, "
    "it is `.kuwa` in this folder.",
    "disk_zh": "首次啟動會把 {files:,} 個檔案（{size}）解開到 `~/.cache/kuwa`，之後直接使用。"
    "`KUWA_MIN_ROOT` 可指定其他位置；家目錄無法寫入時，改放本資料夾的 `.kuwa`。",
    "remove_en": "delete this folder and `~/.cache/kuwa`.",
    "remove_zh": "刪除本資料夾與 `~/.cache/kuwa`。",
}
NOT_UNPACKED = {
    "disk_en": "nothing is unpacked; the program runs straight from its file.",
    "disk_zh": "不需解開任何檔案，程式直接從檔案執行。",
    "remove_en": "delete this folder.",
    "remove_zh": "刪除本資料夾。",
}
CLOSED = {  # of an executor that needs nothing but the Kernel
    "network": """\
# It talks to this machine and to no other, in neither direction. Is the Kernel on another one, or
# what a custom executor asks? Then take the # away and write their addresses, ranges too
# (10.0.0.0/24): systemd takes no host names; `getent ahosts HOST` shows the addresses of one. A DNS
# server must be listed as well, unless it is this machine's own (127.0.0.53), or write the name
# into /etc/hosts. What is blocked fails with "Operation not permitted", or times out.
IPAddressDeny=any
IPAddressAllow=localhost
# IPAddressAllow=10.0.0.2""",
    "network_en": "The service reaches no other machine. If the Kernel is on one, first write its "
    "address (`getent ahosts HOST` shows it) behind `IPAddressAllow=` in `kuwa.service`, and take "
    "the `#` away.",
    "network_zh": "此服務無法連到其他機器。若 Kernel 在別的機器上，請先把它的位址"
    "（`getent ahosts HOST` 可查詢）寫進 `kuwa.service` 的 `IPAddressAllow=`，並刪去該行的 `#`。",
}
OPEN = {  # of one that asks a service on the internet, whose addresses change
    "network": """\
# It asks a service, whose addresses systemd would have to know. Is that one of your own network?
# Then take the # away, and write its address and the Kernel's: no host names; `getent ahosts HOST`
# shows the addresses of one. A DNS server must be listed as well, unless it is this machine's own.
# IPAddressDeny=any
# IPAddressAllow=localhost 10.0.0.2 10.0.0.3""",
    "network_en": "The service may reach every machine, as it asks one. If that is in your own "
    "network, `IPAddressDeny=` and `IPAddressAllow=` in `kuwa.service` shut all others out.",
    "network_zh": "此服務可連到任何機器，因為它需要詢問外部服務。若該服務在您自己的網路內，可用 "
    "`kuwa.service` 的 `IPAddressDeny=` 與 `IPAddressAllow=` 擋下其他連線。",
}
CARDS = """

# It computes as many layers on graphics cards as fit. This leaves them to others:
# --ngl
# 0"""
CLOUD = "[Cloud model]"  # what the summary of such an executor begins with
VERIFY = f"ssh-keygen -Y verify -f FILE -I {NAMESPACE} -n {NAMESPACE} -s {SIGNATURE} < {SUMS}"
# What was added has no hash; a link in a file's place is no file, and counts as missing.
ADDED = (
    f'test "$(cut -c67- {SUMS} | sort)" = "$(find . -type f ! -path ./{SUMS} ! -path ./{SIGNATURE}'
    ' | cut -c3- | sort)" && echo "Nothing was added."'
)
SIGNED = {  # of a kit that is signed, with the fingerprint of the key
    "signed_en": "\n\n   And that it is from its maker, who signed it with the key `{key}`: ask "
    f"them whether it is theirs, or take as FILE the `{SIGNERS}` that they gave you by another "
    f"way. These commands run nothing of the kit.\n\n   ```sh\n   {VERIFY}\n   {ADDED}\n   ```",
    "signed_zh": "並確認來源：本套件夾以金鑰 `{key}` 簽章。請向製作者確認這把金鑰，"
    f"或以另外取得的 `{SIGNERS}` 作為 FILE：`{VERIFY}`。"
    f"再確認沒有多出檔案：`{ADDED}`。這些指令不會執行套件夾裡的任何東西。",
}
NEWEST_MINOR = 15  # of Python 3: the first that the start script tries where any will do


def texts(
    manifest: Manifest,
    arguments: Sequence[str],
    program: Sequence[str],
    model_size: int,
    signer: str = "",
) -> dict[str, str]:
    """Return the kit's texts by file name.

    arguments are the defaults for kuwa.args, the executor's name first; program is the name of the
    built file, followed by those of its companions; model_size is in bytes, 0 without a model;
    signer is the public key of a kit that is signed.
    Raises UsageError for an argument that is not one line of text.
    """
    facts = _facts(manifest, program[0], arguments[0])
    facts |= _rows(program, model_size, signer) | {"arguments": _lines(arguments)}
    key = fingerprint(base64.b64decode(signer.split()[1])) if signer else ""
    facts |= {name: text.format(key=key) if signer else "" for name, text in SIGNED.items()}
    return {
        name: _fill((TEMPLATES / template).read_text(encoding="utf-8"), facts)
        for name, template in TEXTS.items()
    }


def _lines(arguments: Sequence[str]) -> str:
    """Return the arguments as lines of kuwa.args."""
    for argument in arguments:
        is_line = argument.splitlines() == [argument.strip()] and is_unicode(argument)
        if not is_line or argument.startswith("#"):
            raise UsageError(f"{argument!r} cannot stand in kuwa.args: a line of text is needed")
    return "\n".join(arguments)


def _facts(manifest: Manifest, name: str, backend: str) -> dict[str, str]:
    payloads = manifest["payloads"]
    files, size = (sum(one[key] for one in payloads) for key in ("files", "bytes"))
    disk = UNPACKED if payloads else NOT_UNPACKED
    network = OPEN if _asks_a_service(manifest, backend) else CLOSED
    target = manifest["built_for"]
    return {
        "backend": backend,
        "title": f"{name}, {manifest['name']} {manifest['version']}",
        "facts": describe(manifest),
        "quoted_name": shlex.quote(name),
        "cards": CARDS if backend == "llamacpp" and _is_for_cards(target) else "",
        **network,
        **_python(target),
        **{key: text.format(files=files, size=size_text(size)) for key, text in disk.items()},
    }


def _is_for_cards(target: Target) -> bool:
    return bool(target["cuda"] or target["gpu_libraries"])


def _asks_a_service(manifest: Manifest, backend: str) -> bool:
    known = backend_infos()
    summary = known[backend].summary if backend in known else manifest["executors"].get(backend, "")
    return summary.startswith(CLOUD)


def _python(target: Target) -> dict[str, str]:
    """Describe the Python that is needed: in words, as commands to try, as a condition."""
    version = target["python"].removeprefix(">=")
    minor = int(version.partition(".")[2])
    if target["python"].startswith(">="):
        others = (f"python3.{number}" for number in range(NEWEST_MINOR, minor - 1, -1))
        return {
            "python": f"Python {version} or newer",
            "python_zh": f"Python {version} 以上的版本",
            "pythons": " ".join(["python3", *others]),
            "suits": f"sys.version_info >= (3, {minor})",
        }
    threads = "t" if target["abi"].endswith("t") else ""  # "cp313t": free-threaded
    return {
        "python": f"Python {version}{threads}",
        "python_zh": f"Python {version}{threads}",
        "pythons": " ".join(dict.fromkeys([f"python{version}{threads}", "python3"])),
        "suits": f"sys.version_info[:2] == (3, {minor})",
    }


def _rows(program: Sequence[str], model_size: int, signer: str) -> dict[str, str]:
    """Return the table of the kit's files as Markdown rows, in both languages."""
    archive, *companions = program
    described = {archive: ("the program, in one file", "程式，單一檔案")}
    described |= {path: BESIDE[path.removeprefix(archive)] for path in companions}
    if model_size:
        size = size_text(model_size)
        described["model/"] = (f"the model, {size}", f"模型，{size}")
    described[SUMS] = ("the hashes of all of it", "全部檔案的雜湊值")
    if signer:
        described[SIGNATURE] = ("the signature of these hashes", "這些雜湊值的簽章")
        described[SIGNERS] = ("the key that signed", "簽章所用的金鑰")
    return {
        key: "\n".join(f"| `{path}` | {words[language]} |" for path, words in described.items())
        for language, key in enumerate(("rows_en", "rows_zh"))
    }


def _fill(template: str, facts: dict[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda word: facts[word[1]], template)

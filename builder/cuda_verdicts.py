"""Verdicts on an image for CUDA, from what builder/image_facts.py saw inside. Nothing is run here.

Functions named `..._faults` return what is wrong, in words: nothing if all is well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.proof import NEVER_IN_AN_IMAGE

DRIVER = "libcuda.so.1"
"""The driver's library, which comes from the host and is in no image."""
KERNELS = "libggml-cuda.so"
"""The beginning of the name of llama.cpp's library of CUDA kernels."""
MAY_LACK = {
    # Draws windows: small images leave out what it needs.
    "_tkinter.": re.compile(r"lib(tk|tcl|BLT|X).*"),
    # A program of RunPod's SDK, which is started where there is a GPU: the driver's other library.
    "gpu_test": re.compile(r"libnvidia-ml\.so\.1"),
}
"""What may be missing for a file whose name begins so."""

_TOOLS = ("nvcc", "ptxas", "cicc", "nvlink", "fatbinary", "cudafe++", "cuobjdump", "nvdisasm")
_FOREIGN = (
    ("a library of the driver, or a stub of it", re.compile(r"/(libcuda\.so|libnvidia-)[^/]*$")),
    ("a folder of stubs", re.compile(r"/stubs$")),
    (
        "what is in no image",
        re.compile("(" + "|".join(map(re.escape, NEVER_IN_AN_IMAGE)) + ")$"),
    ),
    ("a tool of CUDA", re.compile("/(" + "|".join(map(re.escape, _TOOLS)) + ")$")),
    (
        "a compiler",
        re.compile(r"/cc1$|/bin/([\w-]*(clang|gcc|g\+\+|c\+\+)|as|ld(\.\w{3,})?)(-[\d.]+)?$"),
    ),
    ("a static archive", re.compile(r"\.a$")),
    ("a header of CUDA", re.compile(r"/(cuda|cublas|cuComplex|nvml|nvrtc|nvtx)\w*\.hp?p?$|\.cuh$")),
)

_MINOR_COMPATIBLE = {12: "525.60.13", 13: "580.65.06"}
"""The oldest driver for the real code of any toolkit of a CUDA version (NVIDIA's "CUDA Toolkit
Release Notes", table of minor version compatibility)."""
_OF_TOOLKIT = {(12, 8): "570.26", (13, 0): "580.65.06"}
"""The driver that came with a toolkit (the same notes); an older one cannot read its PTX."""


# --- libraries ---


@dataclass(frozen=True, slots=True)
class Linked:
    """What the loader says of a file.

    `reaches`: names of all the libraries that it would load; `missing`: those that are not found.
    `faults`: versions of symbols that are not found, and what else the loader complains of.
    `glibc`: the newest version of glibc's symbols that the file itself needs; () if none.
    """

    reaches: frozenset[str]
    missing: frozenset[str]
    faults: tuple[str, ...]
    glibc: tuple[int, ...]


def linked(path: str, said: str) -> Linked:
    """Read what `ldd -v` said of a file."""
    listed, _, versions = said.partition("Version information:")
    names = re.findall(r"^\t(\S+) (?:=> |\()(not found)?", listed, re.MULTILINE)
    own = re.search(rf"^\t{re.escape(path)}:\n((?:\t\t.*\n?)*)", versions, re.MULTILINE)
    needed = re.findall(r"\(GLIBC_([\d.]+)\)", own[1] if own else "")
    return Linked(
        reaches=frozenset(PurePosixPath(name).name for name, _ in names),
        missing=frozenset(name for name, lost in names if lost),
        faults=tuple(re.findall(r"^(?!\t).*(?:not found|error).*$", said, re.MULTILINE)),
        glibc=max(map(version, needed), default=()),
    )


def library_faults(links: Mapping[str, Linked]) -> list[str]:
    """All that a file needs is there, but the driver."""
    faults = [f"there is no {KERNELS}"] if not any(map(_is_kernels, links)) else []
    for path, link in links.items():
        name = PurePosixPath(path).name
        lacking = (each for each in sorted(link.missing) if not _may_lack(name, each))
        faults += [f"{name} needs {each}" for each in lacking]
        faults += link.faults
    return faults


def _may_lack(name: str, library: str) -> bool:
    return library == DRIVER or any(
        name.startswith(beginning) and which.fullmatch(library)
        for beginning, which in MAY_LACK.items()
    )


def tie_faults(links: Mapping[str, Linked]) -> list[str]:
    """CUDA's kernels are tied to the driver, and nothing else to either of them."""
    loose = [
        f"{PurePosixPath(path).name} is not linked with {DRIVER}, whose functions it calls"
        for path, link in links.items()
        if _is_kernels(path) and DRIVER not in link.reaches
    ]
    return loose + [
        f"{PurePosixPath(path).name} needs {each}"
        for path, link in links.items()
        if not _is_kernels(path)
        for each in sorted(link.reaches)
        if each == DRIVER or _is_kernels(each)
    ]


def _is_kernels(path: str) -> bool:
    return PurePosixPath(path).name.startswith(KERNELS)


# --- files ---


def file_faults(names: Iterable[str]) -> list[str]:
    """The image has no part of a driver, of a compiler, or of what only a compiler needs."""
    return [f"{name} is {what}" for name in names if (what := _foreign(name))]


def _foreign(name: str) -> str | None:
    return next((what for what, is_one in _FOREIGN if is_one.search(name)), None)


# --- architectures ---


@dataclass(frozen=True, slots=True)
class Code:
    """How many files of real code, and of PTX, a library has for each architecture ("90")."""

    real: Mapping[str, int]
    ptx: Mapping[str, int]


def code(real: str, ptx: str) -> Code:
    """Read what `cuobjdump` said to `--list-elf` and to `--list-ptx`."""
    return Code(_by_architecture("ELF", real), _by_architecture("PTX", ptx))


def _by_architecture(kind: str, said: str) -> Counter[str]:
    listed = rf"^{kind} file +\d+: .*\.sm_(\d+[af]?)\.\w+$"
    return Counter(re.findall(listed, said, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The architectures for which there has to be real code, and PTX."""

    real: frozenset[str]
    ptx: frozenset[str]


def wanted(architectures: str) -> Wanted:
    """Read a list as CMake has it ("80;90-real"). Raises ValueError for one that names none."""
    real, ptx = set(), set()
    for each in filter(None, architectures.split(";")):
        match = re.fullmatch(r"(\d+[af]?)(-real|-virtual)?", each.strip())
        if match is None:
            raise ValueError(f"{each!r} is no architecture, such as 90-real, 80-virtual or 80")
        # llama.cpp makes 12Xa of 12X, for the instructions that only this one has.
        name = re.sub(r"^(12\d)$", r"\1a", match[1])
        if match[2] != "-virtual":
            real.add(name)
        if match[2] != "-real":
            ptx.add(name)
    if not real | ptx:
        raise ValueError("no architecture is named")
    return Wanted(frozenset(real), frozenset(ptx))


def code_faults(code: Code, wanted: Wanted) -> list[str]:
    """Each source has real code for what was asked for, and PTX for just what was asked for."""
    faults = []
    for what, found, asked in (
        ("real code", code.real, wanted.real),
        ("PTX", code.ptx, wanted.ptx),
    ):
        all_of_it = max(found.values(), default=0)
        for each in in_order(asked):
            if each not in found:
                faults.append(f"it has no {what} for {each}")
            elif found[each] < all_of_it:
                faults.append(f"it has {what} for {each} in {found[each]} of {all_of_it} sources")
    faults += [f"it has PTX for {each}, unasked" for each in in_order(set(code.ptx) - wanted.ptx)]
    return faults


def told(code: Code, wanted: Wanted) -> str:
    """Say what there is for which architecture, and which of it nobody asked for."""
    unasked = in_order(set(code.real) - wanted.real)
    parts = [
        f"real code for {_listed(code.real)}",
        f"PTX for {_listed(code.ptx)}" if code.ptx else "no PTX",
    ]
    parts += [f"unasked: {', '.join(unasked)}"] if unasked else []
    return "; ".join(parts)


def _listed(found: Mapping[str, int]) -> str:
    return ", ".join(f"{each} ({found[each]})" for each in in_order(found)) or "nothing"


def in_order(architectures: Iterable[str]) -> list[str]:
    return sorted(architectures, key=lambda each: (int(each.rstrip("af")), each))


# --- what it needs of a host ---


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def oldest_glibc(links: Mapping[str, Linked]) -> tuple[tuple[int, ...], str]:
    """Return the newest glibc that llama.cpp or CUDA need, and the name of what needs it."""
    shipped = (path for path in links if path.startswith(("/llama/", "/cuda/")))
    return max((links[path].glibc, PurePosixPath(path).name) for path in shipped)


def driver(cudart: int, ptx: bool) -> str:
    """Say how old the host's driver may be, by the version of the runtime library (12080)."""
    major, minor = cudart // 1000, cudart % 1000 // 10
    name = f"CUDA {major}.{minor}"
    oldest = _MINOR_COMPATIBLE.get(major)
    if oldest is None:
        return f"{name}: not known here"
    if not ptx:
        return f"{name}: {oldest}"
    return f"{name}: {oldest}, and for its PTX {_OF_TOOLKIT.get((major, minor), 'its own driver')}"


# --- a worker without a GPU ---


def answer_faults(status: int, said: str, reason: str) -> list[str]:
    """A worker without a GPU answers all the same, and warns of the reason in one line."""
    faults = [] if status == 0 else [f"it exited with {status}"]
    warnings = [line for line in _warnings(said) if reason in line]
    if len(warnings) != 1:
        faults.append(f"{len(warnings)} lines warn of {reason}")
    if "Traceback" in said:
        faults.append("it shows a traceback")
    return faults


def refusal_faults(status: int, said: str, reason: str) -> list[str]:
    """A worker that is to use a GPU, and has none, refuses: it names the setting and the reason."""
    faults = ["it exited with 0"] if status == 0 else []
    faults += [f"it does not name {each}" for each in ("GPU_LAYERS", reason) if each not in said]
    if "Traceback" in said:
        faults.append("it shows a traceback")
    return faults


def _warnings(said: str) -> list[str]:
    return [line for line in said.splitlines() if '"level": "warning"' in line]

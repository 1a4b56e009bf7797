from __future__ import annotations

import subprocess
from pathlib import Path

from tests.builder.image.rooted import add_program, add_tools
from tests.paths import ROOT

CXX = """for last; do [ "${last#-Wl,-soname}" = "$last" ] || name=${last#-Wl,}; done
case "$*" in
    "-E "*) echo 'CUresult cuMemCreate(int size);'; echo 'CUresult cuInit(unsigned flags);' ;;
    *) { echo "$name"; while read -r line; do echo "$line"; done } >"$last" ;;
esac"""


def test_packages_become_a_toolkit_that_compilers_and_cmake_find_their_way_in(
    tmp_path: Path,
) -> None:
    packages, toolkit = tmp_path / "cu13", tmp_path / "cuda"
    for name in ("bin/nvcc", "include/cuda.h", "lib/libcudart.so.13", "lib/libcublasLt.so.13"):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(name)
    add_tools(tmp_path / "bin", "sh", "basename", "ln", "mkdir", "mv", "sed", "sort")
    add_program(tmp_path / "bin/c++", CXX)
    subprocess.run(
        ["sh", str(ROOT / "builder/image/lay_out_cuda.sh"), str(packages), str(toolkit)],
        env={"PATH": str(tmp_path / "bin")},
        check=True,
        timeout=30,
    )
    assert not packages.exists()
    for folder in ("lib64", "targets/x86_64-linux/lib"):
        assert (toolkit / folder / "libcudart.so").read_text() == "lib/libcudart.so.13"
        assert (toolkit / folder / "libcublasLt.so").resolve().name == "libcublasLt.so.13"
        stub = (toolkit / folder / "stubs/libcuda.so").read_text()
    assert (toolkit / "targets/x86_64-linux/include/cuda.h").exists()
    # A linker leaves out a library that has none of the functions which are called.
    assert stub == "-soname,libcuda.so.1\nvoid cuInit(void) {}\nvoid cuMemCreate(void) {}\n"

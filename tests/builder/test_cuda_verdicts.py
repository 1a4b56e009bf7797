"""The proof of the image for CUDA, on what tools have said: what has to fail fails."""

from __future__ import annotations

import pytest

from builder.cuda_verdicts import (
    Code,
    Linked,
    answer_faults,
    code,
    code_faults,
    driver,
    file_faults,
    library_faults,
    linked,
    oldest_glibc,
    refusal_faults,
    tie_faults,
    told,
    wanted,
)

LIB = "/llama/llama_cpp/lib"
KERNELS = f"{LIB}/libggml-cuda.so"
LLAMA = f"{LIB}/libllama.so.0.5.0"
TKINTER = "/usr/lib/python3.11/lib-dynload/_tkinter.cpython-311-x86_64-linux-gnu.so"
GPU_TEST = "/venv/lib/python3.11/site-packages/runpod/serverless/binaries/gpu_test"

OF_KERNELS = f"""\tlinux-vdso.so.1 (0x00007ffd7e5f2000)
\tlibggml-base.so.0 => {LIB}/libggml-base.so.0 (0x00007f0c1a000000)
\tlibcudart.so.13 => /cuda/libcudart.so.13 (0x00007f0c19c00000)
\tlibcublas.so.13 => /cuda/libcublas.so.13 (0x00007f0c16400000)
\tlibcuda.so.1 => not found
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0c15e00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0c1e1c5000)

\tVersion information:
\t{KERNELS}:
\t\tlibm.so.6 (GLIBC_2.29) => /lib/x86_64-linux-gnu/libm.so.6
\t\tlibc.so.6 (GLIBC_2.2.5) => /lib/x86_64-linux-gnu/libc.so.6
\t\tlibstdc++.so.6 (GLIBCXX_3.4.30) => /lib/x86_64-linux-gnu/libstdc++.so.6
\t{LIB}/libggml-base.so.0:
\t\tlibc.so.6 (GLIBC_2.34) => /lib/x86_64-linux-gnu/libc.so.6
"""
OF_LLAMA = f"""\tlinux-vdso.so.1 (0x00007ffd7e5f2000)
\tlibggml.so.0 => {LIB}/libggml.so.0 (0x00007f0c1a000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0c15e00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0c1e1c5000)

\tVersion information:
\t{LLAMA}:
\t\tlibc.so.6 (GLIBC_2.32) => /lib/x86_64-linux-gnu/libc.so.6
"""
REAL = """
ELF file    1: libggml-cuda.1.sm_80.cubin
ELF file    2: libggml-cuda.2.sm_120a.cubin
ELF file    3: libggml-cuda.3.sm_80.cubin
ELF file    4: libggml-cuda.4.sm_120a.cubin
"""
PTX = """
PTX file    1: libggml-cuda.1.sm_80.ptx
PTX file    2: libggml-cuda.2.sm_80.ptx
"""
NO_PTX = (
    "cuobjdump info    : No PTX file found to extract from '/x/libggml-cuda.so'. "
    "You may try with -all option.\n"
)


def links(**said: str) -> dict[str, Linked]:
    """Return an image's links: as they should be, but for what is given."""
    all_of_it = {KERNELS: OF_KERNELS, LLAMA: OF_LLAMA, **said}
    return {path: linked(path, text) for path, text in all_of_it.items()}


def test_all_is_well_if_only_the_driver_is_not_found_and_only_the_kernels_need_it() -> None:
    assert library_faults(links()) == []
    assert tie_faults(links()) == []


def test_a_library_that_is_not_found_fails() -> None:
    lost = OF_KERNELS.replace("/cuda/libcublas.so.13 (0x00007f0c16400000)", "not found")
    assert library_faults(links(**{KERNELS: lost})) == ["libggml-cuda.so needs libcublas.so.13"]


def test_a_version_of_a_symbol_that_is_not_found_fails() -> None:
    wrong = f"{LLAMA}: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found\n"
    (fault,) = library_faults(links(**{LLAMA: wrong + OF_LLAMA}))
    assert "GLIBC_2.38" in fault


def test_an_image_without_the_kernels_fails() -> None:
    assert library_faults({LLAMA: linked(LLAMA, OF_LLAMA)}) == ["there is no libggml-cuda.so"]


def test_a_library_beside_the_kernels_that_is_tied_to_the_driver_fails() -> None:
    tied = f"\tlibggml-cuda.so.0 => {KERNELS}.0 (0x00007f0c15000000)\n{OF_LLAMA}"
    assert tie_faults(links(**{LLAMA: tied})) == ["libllama.so.0.5.0 needs libggml-cuda.so.0"]
    tied = f"\tlibcuda.so.1 => not found\n{OF_LLAMA}"
    assert tie_faults(links(**{LLAMA: tied})) == ["libllama.so.0.5.0 needs libcuda.so.1"]


def test_kernels_that_are_not_linked_with_the_driver_fail() -> None:
    loose = OF_KERNELS.replace("\tlibcuda.so.1 => not found\n", "")
    fault = "libggml-cuda.so is not linked with libcuda.so.1, whose functions it calls"
    assert tie_faults(links(**{KERNELS: loose})) == [fault]


@pytest.mark.parametrize(
    ("path", "library"), [(TKINTER, "libtk8.6.so"), (GPU_TEST, "libnvidia-ml.so.1")]
)
def test_what_a_worker_does_without_may_lack_what_it_alone_needs(path: str, library: str) -> None:
    lacks = f"\t{library} => not found\n"
    assert library_faults(links(**{path: lacks})) == []
    assert library_faults(links(**{LLAMA: lacks})) == [f"libllama.so.0.5.0 needs {library}"]
    other = "\tlibssl.so.3 => not found\n"
    assert len(library_faults(links(**{path: other}))) == 1


@pytest.mark.parametrize(
    "name",
    [
        "/usr/local/cuda/lib64/stubs",
        "/cuda/libcuda.so",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "/usr/local/cuda/bin/nvcc",
        "/usr/local/cuda/bin/ptxas",
        "/usr/local/cuda/nvvm/bin/cicc",
        "/usr/bin/gcc",
        "/usr/bin/x86_64-linux-gnu-gcc-12",
        "/usr/bin/g++-12",
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus",
        "/cuda/libcublas_static.a",
        "/usr/local/cuda/include/cuda_runtime.h",
        "/usr/local/cuda/include/cublas_v2.h",
        "/etc/pip.conf",
    ],
)
def test_a_part_of_a_driver_or_a_compiler_fails(name: str) -> None:
    assert file_faults(["/usr/bin/python3", name])


@pytest.mark.parametrize(
    "name",
    [
        "/cuda/libcudart.so.13",
        "/cuda/libcublasLt.so.13",
        KERNELS,
        "/usr/bin/false",
        "/usr/bin/bash",
        "/usr/bin/ld.so",
        "/usr/share/gcc",
        "/usr/share/locale/as",
        "/venv/lib/python3.11/site-packages/pynvml.py",
        "/venv/lib/python3.11/site-packages/pydantic/alias_generators.py",
    ],
)
def test_what_the_worker_needs_is_not_taken_for_a_compiler(name: str) -> None:
    assert file_faults([name]) == []


def test_a_list_of_architectures_is_read_as_cmake_does() -> None:
    asked = wanted("80;90-real;100-virtual;103a-real")
    assert asked.real == {"80", "90", "103a"}
    assert asked.ptx == {"80", "100"}


def test_llama_cpp_makes_of_12x_the_one_with_all_instructions() -> None:
    assert wanted("120-real;121-virtual;120f").real == {"120a", "120f"}
    assert wanted("120-real;121-virtual;120f").ptx == {"121a", "120f"}


@pytest.mark.parametrize("text", ["", "native", "all", "sm_90", "90-real,80"])
def test_a_list_that_names_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="architecture"):
        wanted(text)


def test_real_code_and_ptx_as_asked_for_are_well() -> None:
    assert code_faults(code(REAL, PTX), wanted("80;120-real")) == []
    assert code_faults(code(REAL, NO_PTX), wanted("80-real;120-real")) == []


def test_an_architecture_that_is_not_in_it_fails() -> None:
    faults = code_faults(code(REAL, PTX), wanted("80;120-real;90-real"))
    assert faults == ["it has no real code for 90"]


def test_an_architecture_of_some_sources_only_fails() -> None:
    some = Code({"80": 118, "90": 117}, {})
    faults = code_faults(some, wanted("80-real;90-real"))
    assert faults == ["it has real code for 90 in 117 of 118 sources"]


def test_ptx_that_was_not_asked_for_fails() -> None:
    faults = code_faults(code(REAL, PTX), wanted("80-real;120-real"))
    assert faults == ["it has PTX for 80, unasked"]


def test_ptx_that_was_asked_for_and_is_not_there_fails() -> None:
    faults = code_faults(code(REAL, NO_PTX), wanted("80;120-real"))
    assert faults == ["it has no PTX for 80"]


def test_code_that_nobody_asked_for_is_told() -> None:
    said = told(code(REAL, NO_PTX), wanted("120-real"))
    assert said == "real code for 80 (2), 120a (2); no PTX; unasked: 80"


def test_the_glibc_that_is_told_is_the_newest_that_what_was_built_needs() -> None:
    newer = {"/usr/lib/x86_64-linux-gnu/libgomp.so.1": OF_LLAMA.replace("2.32", "2.36")}
    assert oldest_glibc(links(**newer)) == ((2, 32), "libllama.so.0.5.0")


def test_a_file_needs_what_it_says_itself_and_not_what_its_libraries_need() -> None:
    assert linked(KERNELS, OF_KERNELS).glibc == (2, 29)


def test_ptx_needs_the_toolkits_own_driver_and_real_code_an_older_one() -> None:
    assert driver(12_080, ptx=False) == "CUDA 12.8: 525.60.13"
    assert driver(12_080, ptx=True) == "CUDA 12.8: 525.60.13, and for its PTX 570.26"
    assert driver(13_000, ptx=False) == "CUDA 13.0: 580.65.06"
    assert "its own driver" in driver(12_040, ptx=True)
    assert "not known" in driver(14_000, ptx=False)


WARNED = (
    '{"level": "warning", "event": "no GPU: libcuda.so.1 is not found; the model is on the CPU"}\n'
)


def test_a_worker_without_a_driver_answers_and_warns_once() -> None:
    assert answer_faults(0, f"{WARNED}The sea.", "libcuda.so.1") == []
    assert answer_faults(0, "The sea.", "libcuda.so.1") == ["0 lines warn of libcuda.so.1"]
    assert answer_faults(0, WARNED * 2, "libcuda.so.1") == ["2 lines warn of libcuda.so.1"]
    assert answer_faults(1, WARNED, "libcuda.so.1") == ["it exited with 1"]
    assert answer_faults(0, f"{WARNED}Traceback (most", "libcuda.so.1") == ["it shows a traceback"]


def test_a_worker_that_is_to_use_a_gpu_refuses_and_names_the_setting_and_the_reason() -> None:
    said = "error: GPU_LAYERS=all, and there is no libcuda.so.1"
    assert refusal_faults(2, said, "libcuda.so.1") == []
    assert refusal_faults(0, said, "libcuda.so.1") == ["it exited with 0"]
    assert refusal_faults(1, said, "NVIDIA driver") == ["it does not name NVIDIA driver"]
    assert refusal_faults(1, "no libcuda.so.1", "libcuda.so.1") == ["it does not name GPU_LAYERS"]
    assert refusal_faults(1, f"{said}\nTraceback", "libcuda.so.1") == ["it shows a traceback"]

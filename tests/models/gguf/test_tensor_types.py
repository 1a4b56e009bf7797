from __future__ import annotations

import gguf
import pytest

from gguf_worker.models.gguf import TENSOR_TYPES


@pytest.mark.parametrize("number", sorted(TENSOR_TYPES))
def test_every_tensor_type_has_the_size_that_the_gguf_package_gives_it(number: int) -> None:
    name, block, size = TENSOR_TYPES[number]
    known = {int(kind): (kind.name, sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    if name in ("Q2_0", "Q8_1"):
        # The one is newer than the package, of the other the package has an outdated size.
        assert known.get(number, (name, None))[1] != (block, size)
        return
    assert known[number] == (name, (block, size))

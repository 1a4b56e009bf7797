from __future__ import annotations

import pytest

from gguf_worker.errors import ConfigError, ModelUnavailable, ModelUnsupported
from gguf_worker.models.source import Hub
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.source.selection import choose_named, choose_quant
from tests.fake_hub import FakeHub
from tests.models.source.conftest import REPO, add_files, only


@pytest.mark.parametrize(
    ("quant", "names", "expected"),
    [
        ("q4_k_m", ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        ("Q4_K_M", ["m.q4_k_m.gguf", "m.q4_k_s.gguf"], "m.q4_k_m.gguf"),
        ("Q8_0", ["Q8_0/m-Q8_0.gguf", "Q4_0/m-Q4_0.gguf"], "Q8_0/m-Q8_0.gguf"),
        ("BF16", ["BF16/model.gguf", "F16/model.gguf"], "BF16/model.gguf"),
        ("F16", ["m-F16.gguf", "m-BF16.gguf"], "m-F16.gguf"),
        ("Q4_K_M", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
        ("UD-Q4_K_M", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], "m-UD-Q4_K_M.gguf"),
        ("Q4_K_M", ["m-UD-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-UD-Q4_K_M.gguf"),
        ("IQ4_XS", ["ggml-model-IQ4_XS.gguf", "ggml-model-Q4_0.gguf"], "ggml-model-IQ4_XS.gguf"),
        ("q4_0", ["model_q4_0.gguf", "model_q4_1.gguf"], "model_q4_0.gguf"),
        ("Q8_0", ["m-Q8_0.gguf", "mmproj-m-Q8_0.gguf", "imatrix-Q8_0.gguf"], "m-Q8_0.gguf"),
        (None, ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        (None, ["only.gguf", "mmproj-only.gguf"], "only.gguf"),
    ],
)
def test_a_quantisation_finds_its_file(
    fake: FakeHub, hub: Hub, quant: str | None, names: list[str], expected: str
) -> None:
    add_files(fake, "README.md", *names)
    assert only(hub.resolve(HubQuant(REPO, quant), "main")).file == expected


@pytest.mark.parametrize(
    ("quant", "names", "error", "says"),
    [
        ("Q5_0", ["m-Q4_0.gguf", "m-Q8_0.gguf"], ModelUnavailable, "It has Q4_0, Q8_0"),
        ("Q4_K", ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf"], ModelUnavailable, "It has Q4_K_M, Q4_K_S"),
        ("Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], ConfigError, f"{REPO}/a-Q8_0.gguf, {REPO}/b"),
        (None, ["m-Q5_0.gguf", "m-Q8_0.gguf"], ConfigError, f"{REPO}:Q5_0, {REPO}:Q8_0"),
        (None, ["README.md", "mmproj-F16.gguf"], ModelUnavailable, "has no GGUF model"),
        (
            "Q8_0",
            ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"],
            ModelUnavailable,
            "m-Q8_0-00002-of-00003.gguf is not at 'main'",
        ),
        (
            "Q8_0",
            ["a-Q8_0-00001-of-00001.gguf", "b-Q8_0-00001-of-00001.gguf"],
            ConfigError,
            "fits 2 files",
        ),
    ],
)
def test_a_quantisation_that_is_absent_or_unclear_is_answered_with_the_choices(
    fake: FakeHub,
    hub: Hub,
    quant: str | None,
    names: list[str],
    error: type[Exception],
    says: str,
) -> None:
    add_files(fake, *names)
    with pytest.raises(error, match=says):
        hub.resolve(HubQuant(REPO, quant), "main")


@pytest.mark.parametrize("quant", [None, "F16", "Q8_0"])
@pytest.mark.parametrize("name", ["mmproj-F16.gguf", "mmproj/m-F16.gguf", "m-mmproj-f16.gguf"])
def test_a_projector_is_never_taken_for_the_model(
    fake: FakeHub, hub: Hub, name: str, quant: str | None
) -> None:
    add_files(fake, name, "m-Q8_0.gguf")
    if quant == "F16":
        with pytest.raises(ModelUnavailable, match="It has Q8_0"):
            hub.resolve(HubQuant(REPO, quant), "main")
    else:
        assert only(hub.resolve(HubQuant(REPO, quant), "main")).file == "m-Q8_0.gguf"


@pytest.mark.parametrize("others", [["m-Q8_0.gguf"], []])
def test_a_projector_that_is_named_is_refused_as_one(
    fake: FakeHub, hub: Hub, others: list[str]
) -> None:
    add_files(fake, "mmproj-F16.gguf", *others)
    with pytest.raises(ModelUnsupported, match=r"is a projector \(mmproj\)") as refused:
        hub.resolve(HubFile(REPO, "mmproj-F16.gguf"), "main")
    assert refused.value.permanent
    assert refused.value.message.endswith(
        "Name the model: m-Q8_0.gguf." if others else "text only."
    )


# Lists of real repositories, as their authors name files, with weights of other sizes left out.
GEMMA = (
    "MTP/mtp-gemma-4-26B-A4B-it-Q8_0.gguf MTP/mtp-gemma-4-26B-A4B-it-BF16.gguf "
    "mtp-gemma-4-26B-A4B-it.gguf mmproj-BF16.gguf gemma-4-26B-A4B-it-qat-UD-Q4_K_XL.gguf "
    "gemma-4-26B-A4B-it-Q8_0.gguf BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf "
    "BF16/gemma-4-26B-A4B-it-BF16-00002-of-00002.gguf"
)
QWEN = (
    "Qwen3.8-27B-UD-Q4_K_XL.gguf Qwen3.8-27B-Q4_0.gguf Qwen3.8-27B-IQ4_XS.gguf "
    "MTP/mtp-Qwen3.8-27B-Q4_0.gguf mmproj-F16.gguf imatrix_unsloth.gguf_file"
)
FOLDERS = (
    "UD-Q4_K_XL/Qwen3.8-Flash-Next-UD-Q4_K_XL-00001-of-00002.gguf "
    "UD-Q4_K_XL/Qwen3.8-Flash-Next-UD-Q4_K_XL-00002-of-00002.gguf "
    "Q8_0/Qwen3.8-Flash-Next-Q8_0-00001-of-00001.gguf "
    "MTP/mtp-Qwen3.8-Flash-Next-shared-Q8_0.gguf"
)
INSIDE = "Qwen3.6-27B-MTP-UD-Q4_K_XL.gguf Qwen3.6-27B-MTP-Q8_0.gguf"
BARTOWSKI = (
    "Qwen_Qwen3-8B-Q4_K_M.gguf Qwen_Qwen3-8B-Q4_K_L.gguf Qwen_Qwen3-8B-IQ4_NL.gguf "
    "Qwen_Qwen3-8B-imatrix.gguf mmproj-Qwen_Qwen3-8B-f16.gguf "
    "Qwen_Qwen3-8B-bf16/Qwen_Qwen3-8B-bf16-00001-of-00002.gguf "
    "Qwen_Qwen3-8B-bf16/Qwen_Qwen3-8B-bf16-00002-of-00002.gguf"
)
WEIGHTED = "Qwen3.6-27B.i1-Q4_K_M.gguf Qwen3.6-27B.i1-IQ2_XXS.gguf Qwen3.6-27B.imatrix.gguf"
BOTH = f"{WEIGHTED} Qwen3.6-27B.Q4_K_M.gguf Qwen3.6-27B.mmproj-Q8_0.gguf Qwen3.6-27B.Q8_0.gguf"
DRAFTED = (
    "gemma-4-26B-A4B-it-Q8_0.gguf dflash-gemma-4-26B-A4B-it-Q8_0.gguf "
    "drafts/eagle3-gemma-4-26B-A4B-it-Q8_0.gguf DSpark-gemma-4-26B-A4B-it-Q8_0.gguf"
)


@pytest.mark.parametrize(
    ("quant", "names", "expected"),
    [
        ("Q8_0", GEMMA, "gemma-4-26B-A4B-it-Q8_0.gguf"),
        ("UD-Q4_K_XL", GEMMA, "gemma-4-26B-A4B-it-qat-UD-Q4_K_XL.gguf"),
        ("BF16", GEMMA, "BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf"),
        ("Q4_0", QWEN, "Qwen3.8-27B-Q4_0.gguf"),
        ("Q4_K_XL", QWEN, "Qwen3.8-27B-UD-Q4_K_XL.gguf"),
        ("UD-Q4_K_XL", FOLDERS, "UD-Q4_K_XL/Qwen3.8-Flash-Next-UD-Q4_K_XL-00001-of-00002.gguf"),
        ("Q8_0", FOLDERS, "Q8_0/Qwen3.8-Flash-Next-Q8_0-00001-of-00001.gguf"),
        ("Q8_0", INSIDE, "Qwen3.6-27B-MTP-Q8_0.gguf"),
        (None, BARTOWSKI, "Qwen_Qwen3-8B-Q4_K_M.gguf"),
        ("Q4_K_L", BARTOWSKI, "Qwen_Qwen3-8B-Q4_K_L.gguf"),
        ("bf16", BARTOWSKI, "Qwen_Qwen3-8B-bf16/Qwen_Qwen3-8B-bf16-00001-of-00002.gguf"),
        (None, WEIGHTED, "Qwen3.6-27B.i1-Q4_K_M.gguf"),
        ("IQ2_XXS", WEIGHTED, "Qwen3.6-27B.i1-IQ2_XXS.gguf"),
        ("Q4_K_M", BOTH, "Qwen3.6-27B.Q4_K_M.gguf"),
        ("i1-Q4_K_M", BOTH, "Qwen3.6-27B.i1-Q4_K_M.gguf"),
        ("Q8_0", BOTH, "Qwen3.6-27B.Q8_0.gguf"),
        ("Q8_0", DRAFTED, "gemma-4-26B-A4B-it-Q8_0.gguf"),
        (None, "only.gguf MTP/only-draft.gguf mtp-only.gguf", "only.gguf"),
    ],
)
def test_repositories_as_they_are_give_the_model(
    quant: str | None, names: str, expected: str
) -> None:
    assert choose_quant(REPO, quant, "main", names.split()) == expected


def test_a_choice_names_no_draft() -> None:
    with pytest.raises(ModelUnavailable) as refused:
        choose_quant(REPO, "Q2_K", "main", DRAFTED.split())
    assert refused.value.message.endswith("It has Q8_0.")


def test_a_file_that_is_named_like_a_draft_can_be_named() -> None:
    file = "MTP/mtp-Qwen3.8-27B-Q4_0.gguf"
    assert choose_named(REPO, file, "main", QWEN.split()) == file


def test_a_missing_file_is_answered_with_near_names(fake: FakeHub, hub: Hub) -> None:
    add_files(fake, "model-Q4_K_M.gguf", "model-Q8_0.gguf")
    with pytest.raises(ModelUnavailable, match=r"no file model-Q4_KM\.gguf .*model-Q4_K_M\.gguf"):
        hub.resolve(HubFile(REPO, "model-Q4_KM.gguf"), "main")


def test_a_model_in_one_file_is_preferred_to_the_same_one_split(fake: FakeHub, hub: Hub) -> None:
    add_files(fake, "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q8_0.gguf")
    assert only(hub.resolve(HubQuant(REPO, "Q8_0"), "main")).file == "m-Q8_0.gguf"


def test_a_name_that_would_leave_its_folder_is_never_chosen(fake: FakeHub, hub: Hub) -> None:
    add_files(fake, "../../evil-Q8_0.gguf", "good-Q8_0.gguf")
    assert only(hub.resolve(HubQuant(REPO, "Q8_0"), "main")).file == "good-Q8_0.gguf"

"""lm-eval's local-completions: texts until a mark, and likelihoods of given texts.

The tokeniser is the model's own: byte pairs and merges from its file, digits apart.
"""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OPENAI_API_KEY"] = os.environ["WORKER_KEY"]

import gguf
from drive import MODEL, OPENAI, drive
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def tokenizer():
    fields = gguf.GGUFReader(os.environ["MODEL_FILE"]).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    pairs = [tuple(each.split(" ", 1)) for each in merges]
    made = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, pairs))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    made.decoder = decoders.ByteLevel()
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, bos_token=end)


def model():
    folder = tempfile.mkdtemp()
    tokenizer().save_pretrained(folder)
    return LocalCompletionsAPI(
        model=MODEL,
        base_url=f"{OPENAI}/completions",
        tokenizer_backend="huggingface",
        tokenizer=folder,
        tokenized_requests=True,
        num_concurrent=1,
        max_retries=1,
    )


def asked(kind, *arguments):
    return [Instance(kind, {}, each, at) for at, each in enumerate(arguments)]


def generate():
    settings = {"until": ["\n"], "max_gen_toks": 8, "temperature": 0}
    asks = asked("generate_until", ("The sea is", settings), ("Bread needs", settings))
    return {"texts": model().generate_until(asks)}


def likelihoods():
    asks = asked(
        "loglikelihood",
        ("The capital of France is", " Paris"),
        ("The capital of France is", " purple"),
    )
    return {"likelihoods": model().loglikelihood(asks)}


drive(generate=generate, likelihoods=likelihoods)

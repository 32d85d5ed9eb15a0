"""A run as a folder that can be handed on: weights as safetensors, tokenizer, recipe and model card."""

from __future__ import annotations

from pathlib import Path

from babyvlm.artefact import Manifest, made_already, making, sha256
from babyvlm.contracts import UserError, first_line


def export(run: Path, out: Path, hub: str | None = None, private: bool = True) -> None:
    """Make a folder that ``babyvlm.load`` reads anywhere; that of a BabyLLaVA, transformers' Auto classes too.

    Args:
        run: a run's folder; its best checkpoint is taken.
        out: folder to make.
        hub: ``ORG/NAME`` on the Hugging Face hub to upload it to as well, with the token of ``hf auth login``. Weights
            can give away what they were trained on: see your licence of SAYCam before.
        private: let nobody else see the new repository.
    """
    from babyvlm.models.initial import best_checkpoint
    from babyvlm.models.load import EXPORT, load_run, write
    from babyvlm.report.card import model_card

    arguments = {"checkpoint": sha256(best_checkpoint(run))}
    if made_already(out, EXPORT, arguments):
        print(f"{out}: whole already, nothing to do")
    else:
        model, recipe = load_run(run)
        manifest: Manifest = {"arguments": arguments, "model": recipe}
        vocabulary = getattr(model, "vocabulary", None)
        card = model_card(
            run, type(model).__name__, parameters=sum(weight.numel() for weight in model.parameters()),
            words=0 if vocabulary is None else len(vocabulary), name=hub or str(out),
            captions=hasattr(model, "save_pretrained"),
        )  # fmt: skip
        with making(out, EXPORT, manifest) as partial:
            write(model, partial)
            (partial / "README.md").write_text(card)
            recipe["init_args"].pop("vocabulary", None)  # a path of this machine; the folder has it
        print(f"{out}: {type(model).__name__}")
    if hub is not None:
        _upload(out, hub, private)


def _upload(folder: Path, name: str, private: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api = HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"BabyVLM: {folder.name}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"--hub {name}: cannot be uploaded ({first_line(error)})") from error
    print(url)

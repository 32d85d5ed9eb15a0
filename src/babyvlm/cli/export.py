"""Export a run as a folder with its weights as safetensors, its tokenizer, its config and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from babyvlm.errors import UserError, first_line
from babyvlm.io.artifacts import Manifest, create, exclusive, is_complete, sha256_file
from babyvlm.io.license_gate import require_free
from babyvlm.io.printing import echo


def export(
    run: Path,
    out: Path,
    hub: str | None = None,
    private: bool = True,
    licensed_export: bool = False,
    format: Literal["babyvlm", "timm"] = "babyvlm",
) -> None:
    """Export a run's best checkpoint, tokenizer, configuration and model card.

    ``babyvlm.load`` loads the folder on any machine. After ``babyvlm.register_auto_classes()``, the Auto classes of
    transformers load an exported CVCL or BabyLLaVA.

    For example:
        python -m babyvlm export --run lightning_logs/CVCL-frozen-filtered/version_0 --out CVCL-exported

    Args:
        run: folder of a run.
        out: folder to create.
        hub: also upload to this repository of the Hugging Face hub, ``ORG/NAME``, with the token of ``hf auth login``.
        private: create a private repository.
        licensed_export: allow the upload of a model that was trained on licensed data, or on data of unknown license;
            the export records it. Weights can reveal their training data; you are responsible for their distribution.
        format: `babyvlm`: the complete model. `timm`: only its vision trunk, which
            `timm.create_model("local-dir:OUT")` loads without this package.

    Raises:
        UserError: the model was trained on licensed data and would be uploaded, or the run contains links.
    """
    from babyvlm.models.checkpoints import best_checkpoint
    from babyvlm.models.hub import EXPORT, load_run, save, save_timm
    from babyvlm.report.license import trained_on_free
    from babyvlm.report.model_card import model_card
    from babyvlm.report.runs import Run

    licensed = not trained_on_free(Run(run))
    leaves = hub is not None or licensed_export
    record = require_free(run, licensed=licensed, permitted=licensed_export) if leaves else {}
    if hub is not None:
        _check_login(hub)
    _refuse_links(run / "vocabulary", "its target would be copied into the export")
    of_trunk = {"format": format} if format != "babyvlm" else {}
    arguments = {"checkpoint": sha256_file(best_checkpoint(run)), **of_trunk, **record}
    with exclusive(out):
        if is_complete(out, EXPORT, arguments):
            echo(f"{out}: already complete, skipping")
        else:
            model, recipe = load_run(run)
            manifest: Manifest = {"arguments": arguments, "licensed": licensed}
            manifest |= {} if of_trunk else {"model": recipe}
            vocabulary = getattr(model, "vocabulary", None)
            card = model_card(
                run,
                type(model).__name__,
                parameters=sum(weight.numel() for weight in model.parameters()),
                words=0 if vocabulary is None else len(vocabulary),
                name=hub or str(out),
                captions=hasattr(model, "save_pretrained"),
                licensed=licensed,
            )
            with create(out, EXPORT, manifest) as partial:
                (save_timm if of_trunk else save)(model, partial)
                (partial / "README.md").write_text(card)
                recipe["init_args"].pop("vocabulary", None)  # a path of this machine; the folder has it
            note = " (trained on licensed data, or data of unknown license: do not share it)" if licensed else ""
            echo(f"{out}: {type(model).__name__}{note}")
    if hub is not None:
        _upload(out, hub, private)


def _refuse_links(folder: Path, reason: str) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{path}: is a link; {reason}. Replace it by the file")


def _check_login(name: str) -> None:
    """Check at the start what the upload needs at the end.

    Raises:
        UserError: the name is invalid, the hub cannot be reached, or there is no valid token.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # of the hub, its HTTP client, or the network
        reason = first_line(error).rstrip(".")
        raise UserError(f"--hub {name}: {reason}. If access was denied, log in with `hf auth login`") from error


def _upload(folder: Path, name: str, private: bool) -> None:
    from huggingface_hub import HfApi

    from babyvlm.models.hub import FILES

    _refuse_links(folder, "its target would be uploaded")
    try:
        api = HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=["README.md", *FILES],
            commit_message=f"BabyVLM: {folder.name}",
        )
    except Exception as error:  # of the hub, its HTTP client, or the network
        raise UserError(f"--hub {name}: cannot be uploaded ({first_line(error)})") from error
    echo(url)

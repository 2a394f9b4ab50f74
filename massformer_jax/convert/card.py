"""The model card of weights: the README.md that is shown beside them on the Hub of Hugging Face."""

import json
from collections.abc import Mapping
from typing import Any

import massformer_jax
from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import DEFAULT_PROTOCOL, Protocol
from massformer_jax.models.build import family_name, is_coordformer
from massformer_jax.models.hub import HubName
from massformer_jax.models.weights import Weights

# The scores that are told, and what they are.
_SCORES = {
    "mIoU": "mean over the classes of intersection over union",
    "aAcc": "share of pixels with the right class",
    "mAcc": "mean over the classes of the share of their pixels that is found",
    "mBIoU": "mean over the classes of boundary IoU",
    "mBF1@0.75%": "mean over the classes of boundary F1, within 0.75% of the image's diagonal",
}
_PAPER = "https://arxiv.org/abs/2503.18364"
_NAMES = "`model.safetensors` holds the tensors under the names of the released PyTorch code.\n"
_COORDFORMER = (
    "The network is that of Curti, Zama Ramirez, Petrelli and Di Stefano: [CoordFormer]"
    "(https://arxiv.org/abs/2609.08660). Please cite their paper, too.\n"
)


def model_card(
    weights: Weights, name: HubName, license_id: str, summary: Mapping[str, Any] | None
) -> str:
    """Returns the text of a model card: YAML between lines of ---, and Markdown.

    Args:
        weights: of a whole model.
        name: by which they will be found.
        license_id: of the weights, as the Hub writes it: apache-2.0, cc-by-nc-4.0, other.
        summary: what the `metrics.json` of an evaluation of these weights holds; None if there is
            none. Of it, scores are told, and what they were measured on, but no paths.
    """
    scores = _scores(summary)
    front = {
        "license": license_id,
        "library_name": "massformer_jax",
        "pipeline_tag": "image-segmentation",
        "tags": [
            "semantic-segmentation",
            "matting",
            "high-resolution",
            "jax",
            "flax",
            "massformer",
        ],
    }
    if scores:
        front["metrics"] = ["mean_iou"]
        front["model-index"] = [_index(name, summary, scores)]
    # JSON is YAML, and needs no escaping of what a dataset or a class is called.
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    parts = [
        f"---\n{head}\n---\n\n# {name.repository.split('/')[1]}\n",
        _about(weights),
        _classes(weights),
        _sizes(weights),
        _scores_text(summary, scores),
        _usage(name),
        "" if is_coordformer(weights.architecture) else _NAMES,
        _credit(weights),
    ]
    return "\n".join(parts)


def _about(weights: Weights) -> str:
    arguments = ", ".join(f"{key} {value}" for key, value in weights.architecture.items())
    trained = f" after {weights.step} steps of training" if weights.step else ""
    text = (
        f"Weights of {family_name(weights.architecture)}{trained}. The network divides "
        "photographs of 12 megapixels into classes, with boundaries as fine as those of a matte. "
        f"Its architecture: {arguments}.\n"
    )
    if weights.source:
        iteration = weights.source.get("iteration")
        told = f", iteration {iteration}" if iteration is not None else ""
        text += (
            f"\nThey were converted from a file of PyTorch, `{weights.source.get('file')}` "
            f"(SHA-256 `{weights.source.get('sha256')}`{told}), number by number.\n"
        )
    return text


def _classes(weights: Weights) -> str:
    rows = (
        f"| {label} | {_cell(name)} | `#{red:02x}{green:02x}{blue:02x}` |"
        for label, (name, (red, green, blue)) in enumerate(
            zip(weights.classes, weights.palette, strict=True)
        )
    )
    return "## Classes\n\n| label | class | colour |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _sizes(weights: Weights) -> str:
    if weights.pictures is None:
        return "## Pictures\n\nFor what size of picture the weights are meant is not recorded.\n"
    height, width = weights.pictures
    return (
        f"## Pictures\n\nThe weights are meant for pictures of about {width}x{height} pixels. "
        "`massformer predict` says so when a photograph has four times as many pixels, or as few; "
        f"`--resolution {height}x{width}` shows it at that size.\n"
    )


def _scores(summary: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns the scores that an evaluation has, in 0..1."""
    found = {key: (summary or {}).get(key) for key in _SCORES}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _dataset(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the dataset and the split that an evaluation was made on, as people call them."""
    dataset = _mapping(_mapping(summary.get("provenance")).get("dataset"))
    if dataset.get("mass13k"):
        return "MaSS13K", str(dataset["mass13k"])
    return str(dataset.get("name") or "label maps"), str(dataset.get("split") or "all")


def _index(name: HubName, summary: Mapping[str, Any], scores: Mapping[str, float]) -> Any:
    dataset, split = _dataset(summary)
    return {
        "name": name.repository.split("/")[1],
        "results": [
            {
                "task": {"type": "image-segmentation"},
                "dataset": {"name": dataset, "type": dataset.split("/")[0], "split": split},
                "metrics": [
                    {"type": "mean_iou" if key == "mIoU" else key, "name": key, "value": value}
                    for key, value in scores.items()
                ],
            }
        ],
    }


def _scores_text(summary: Mapping[str, Any] | None, scores: Mapping[str, float]) -> str:
    if not scores:
        return "## Scores\n\nNo evaluation came with these weights.\n"
    facts = _mapping(summary.get("provenance"))
    told = _mapping(facts.get("dataset"))
    dataset, split = _dataset(summary)
    images, reason = told.get("images"), told.get("reason")
    whole = f"MaSS13K's {split}" if dataset == "MaSS13K" else f"`{split}` of {dataset}"
    lines = "\n".join(f"| {key} | {100 * scores[key]:.2f} | {_SCORES[key]} |" for key in scores)
    return (
        f"## Scores\n\nOf {whole}, {images} photographs, counted at their own resolution"
        + _seen(summary.get("protocol"))
        + (f"; this is not a whole split of MaSS13K ({reason})" if reason else "")
        + f". Measured by massformer_jax {facts.get('version')} on {facts.get('date')}.\n\n"
        + f"| score | percent | what it is |\n|---|---|---|\n{lines}\n"
    )


def _seen(protocol: Any) -> str:
    """Returns how the network saw the photographs, as the end of a clause; "" if it is unknown."""
    if not isinstance(protocol, Mapping):
        return ""
    try:
        known = Protocol(**{**protocol, "scales": tuple(protocol["scales"])})
    except (InputError, KeyError, TypeError):  # of another version, or damaged
        return ""
    how = "as they are" if known == DEFAULT_PROTOCOL else f"with {known.in_words()}"
    return f"; the network saw them {how}"


def _mapping(value: Any) -> Mapping[str, Any]:
    """Returns what JSON holds if it is a mapping, else one without anything."""
    return value if isinstance(value, Mapping) else {}


def _usage(name: HubName) -> str:
    return f"""## Use

In a clone of massformer_jax:

    pip install '.[hub]'
    massformer predict --checkpoint {name} --output MASKS PHOTO_OR_FOLDER
    massformer demo --checkpoint {name}

From Python:

    from massformer_jax import Segmenter

    labels = Segmenter.load("{name}").predict("photo.jpg")  # uint8 [height, width]
"""


def _credit(weights: Weights) -> str:
    network = _COORDFORMER if is_coordformer(weights.architecture) else ""
    return f"""## Credit

The method, the dataset MaSS13K and the released code are by Chenxi Xie, Minghan Li, Hui Zeng,
Jun Luo and Lei Zhang: [MaSS13K: A Matting-level Semantic Segmentation Benchmark]({_PAPER}),
CVPR 2025. Please cite their paper. massformer_jax {massformer_jax.__version__} wrote these files.
{network}"""


def _cell(text: str) -> str:
    """Returns a text as a cell of a table in Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

"""Where in an image a model finds a word: Grad-CAM of a convolutional encoder.

Shapes: B images, C channels, h and w height and width of the feature map, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn.functional import normalize

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from babyvlm.curation.clip import Clip


def grad_cam(features_BChw: Tensor, embed: Callable[[Tensor], Tensor], text_BD: Tensor) -> Tensor:
    """Return Grad-CAM (Selvaraju et al. 2017) of the cosines of images with one text each, as CVCL uses it.

    A channel's weight is the mean over positions of the gradient of the cosine. The map is the weighted sum of the
    channels; negative values, which speak against the text, become 0.

    Args:
        features_BChw: feature maps of B images.
        embed: returns (B, D) embeddings with unit norm, each of its own feature map only (evaluation mode).
        text_BD: embeddings of a text for each image, with unit norm.

    Returns:
        (B, h, w) maps, at least 0.
    """
    with torch.enable_grad():
        features_BChw = features_BChw.detach().requires_grad_()
        cosines = (embed(features_BChw) * text_BD).sum()
        (gradient_BChw,) = torch.autograd.grad(cosines, features_BChw)
    weights_BC11 = gradient_BChw.mean((2, 3), keepdim=True)
    return (weights_BC11 * features_BChw.detach()).sum(1).relu()


def clip_grad_cam(clip: Clip, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
    """Return (B, h, w), Grad-CAM of an open_clip model with a convolutional encoder: OpenAI's ResNet, or timm's.

    Raises:
        UserError: the encoder is not convolutional.
    """
    visual: Any = cast("Any", clip.model).visual
    text_BD = clip.texts(words, images_BCHW.device)
    with torch.no_grad():
        if isinstance(visual, ModifiedResNet):
            features_BChw = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images_BCHW)))))
            head: Callable[[Tensor], Tensor] = visual.attnpool
        elif isinstance(visual, TimmModel):
            features_BChw = feature_map(visual.trunk, images_BCHW)
            head = lambda one: visual.head(visual.trunk.forward_head(one))  # noqa: E731
        else:
            raise UserError(f"{type(visual).__name__}: Grad-CAM needs a convolutional vision encoder")
    return grad_cam(features_BChw, lambda one: normalize(head(one), dim=-1), text_BD.detach())


def feature_map(trunk: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Return (B, C, h, w), the last feature map of a timm model, which its ``forward_head`` pools.

    Raises:
        UserError: the model is not convolutional: it has no such map.
    """
    features: Tensor = trunk.forward_features(images_BCHW)  # type: ignore[operator] # timm is not typed
    if features.dim() != 4 or features.shape[1] != trunk.num_features:
        raise UserError(
            f"{type(trunk).__name__}: its last features have the shape {tuple(features.shape)}. Grad-CAM needs a "
            "convolutional vision encoder"
        )
    return features

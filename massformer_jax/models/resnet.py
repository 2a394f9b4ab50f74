"""ResNet-18 and ResNet-50, the image encoder.

Source: He et al., "Deep Residual Learning", with the stride in the 3x3 convolution as torchvision
and the released `ResNet_m(style="pytorch")` have it. Attribute names are torchvision's.
"""

import operator

import jax
from flax import nnx
from jaxtyping import Array, Float

from massformer_jax.models.layers import BatchNorm, Conv, kaiming_fan_out
from massformer_jax.models.recomputation import recomputed
from massformer_jax.ops.max_pool import max_pool

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, features_in: int, width: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(features_in, width, 3, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = _conv(width, width, 3, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.downsample = _shortcut(features_in, width, stride=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return jax.nn.relu(y + _through(self.downsample, x))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, features_in: int, width: int, *, stride: int, rngs: nnx.Rngs):
        features_out = width * self.expansion
        self.conv1 = _conv(features_in, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = _conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.conv3 = _conv(width, features_out, 1, rngs=rngs)
        self.bn3 = BatchNorm(features_out, rngs=rngs)
        self.downsample = _shortcut(features_in, features_out, stride=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return jax.nn.relu(y + _through(self.downsample, x))


class ResNet(nnx.Module):
    """The encoder: four maps of an image, at strides 4, 8, 16 and 32.

    Args:
        depth: 18 or 50.
    """

    def __init__(self, depth: int, *, rngs: nnx.Rngs):
        if depth not in BLOCKS:
            raise ValueError(f"encoder_depth is {depth}; it must be one of {sorted(BLOCKS)}")
        block = BasicBlock if depth == 18 else Bottleneck
        self.conv1 = _conv(3, 64, 7, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(64, rngs=rngs)
        features = 64
        self.features: tuple[int, ...] = ()
        for stage, blocks in enumerate(BLOCKS[depth]):
            width = 64 * 2**stage
            layer = nnx.List()
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                layer.append(block(features, width, stride=stride, rngs=rngs))
                features = width * block.expansion
            setattr(self, f"layer{stage + 1}", layer)
            self.features += (features,)

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """Returns [c2, c3, c4, c5], of `self.features` channels."""

        def stem(conv, norm, images):
            return max_pool(jax.nn.relu(norm(conv(images))))

        x = recomputed(stem, self.conv1, self.bn1, images)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = recomputed(operator.call, block, x)
            maps.append(x)
        return maps


def _conv(features_in: int, features_out: int, size: int, *, stride: int = 1, rngs: nnx.Rngs):
    return Conv(
        features_in, features_out, size, stride=stride, kernel_init=kaiming_fan_out, rngs=rngs
    )


def _shortcut(features_in: int, features_out: int, *, stride: int, rngs: nnx.Rngs):
    """Returns the projection of a block that changes size or width, else None."""
    if stride == 1 and features_in == features_out:
        return None
    return nnx.List(
        [
            _conv(features_in, features_out, 1, stride=stride, rngs=rngs),
            BatchNorm(features_out, rngs=rngs),
        ]
    )


def _through(downsample, x: Array) -> Array:
    if downsample is None:
        return x
    projection, norm = downsample
    return norm(projection(x))

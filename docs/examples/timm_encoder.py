"""Any timm model as encoder."""

# --8<-- [start:encoder]
import timm
import torch

from bcl import SimCLR, create_encoder

encoder = create_encoder("resnet10t", image_size=32)  # any name in timm.list_models()
features = encoder(torch.rand(4, 3, 32, 32))  # (4, 512), pooled
assert features.shape == (4, encoder.num_features)

# A model built by timm maps images to features once its classifier is left out.
vit = timm.create_model("test_vit", num_classes=0, img_size=32)
method = SimCLR(vit, views=32)
losses, _ = method.sample_losses(torch.rand(2, 4, 3, 32, 32))  # (4,)
# --8<-- [end:encoder]

assert losses.shape == (4,)
losses.mean().backward()

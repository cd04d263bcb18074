import numpy as np
import torch
from PIL import Image

from diffusion.pipeline import ImageGenerator
from diffusion.preview import nearest_known_codes
from images.convert import to_tensor


def test_masked_codes_become_the_nearest_known_one():
    codes = torch.arange(2 * 5 * 6).view(2, 5, 6)
    masked = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    filled = nearest_known_codes(codes, masked)
    assert torch.equal(filled[~masked], codes[~masked])
    for n, y, x in masked.nonzero().tolist():
        known = (~masked[n]).nonzero()
        distances = (known - torch.tensor([y, x])).square().sum(1)
        nearest = known[distances == distances.min()]
        assert int(filled[n, y, x]) in [int(codes[n, i, j]) for i, j in nearest.tolist()]


def test_nothing_known_and_nothing_masked():
    codes = torch.tensor([[[3, 1], [2, 9]]])
    assert torch.equal(nearest_known_codes(codes, torch.zeros_like(codes, dtype=torch.bool)), codes)
    assert torch.equal(nearest_known_codes(codes, torch.ones_like(codes, dtype=torch.bool)), torch.zeros_like(codes))


def test_the_known_tiles_of_a_preview_have_about_their_final_colours():
    """With the codes of a grey image in place of the masked ones they are off by 70 of 255, as root mean square."""
    generator = ImageGenerator.from_pretrained("models/emoji64", "cpu")
    codes = generator.tokenizer.encode(to_tensor(Image.open("docs/images/emoji.png"), 3)[None])
    masked = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    whole = np.asarray(generator.decode(codes)[0]).astype(float)
    preview = np.asarray(generator.preview(codes.masked_fill(masked, generator.tokenizer.codebook_size))[0]).astype(
        float
    )
    known = ~masked[0].repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
    assert np.sqrt(np.square(whole - preview)[known].mean()) < 40
    assert (preview[~known] == 128).all()

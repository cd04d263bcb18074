import pytest
import torch

from diffusion.transformer import Transformer2D, axial_rotary_angles, rotate


def perturbed(**options):
    torch.manual_seed(0)
    model = Transformer2D(vocab_size=5, grid=(3, 4), num_classes=2, width=32, depth=2, heads=2, **options).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


CODES = torch.randint(6, (2, 3, 4), generator=torch.Generator().manual_seed(0))


def test_shapes_and_a_uniform_first_prediction():
    model = Transformer2D(vocab_size=5, grid=(3, 4), num_classes=2, width=32, depth=2, heads=2)
    logits = model(CODES, None, torch.tensor([0, 2]))
    assert logits.shape == (2, 3, 4, 5) and bool((logits == 0).all())


def test_label_position_and_code_act():
    model = perturbed()
    labels = torch.tensor([0, 1])
    assert not torch.allclose(model(CODES, None, labels), model(CODES, None, labels.flip(0)))
    assert not torch.allclose(model(CODES.transpose(1, 2), None, labels).transpose(1, 2), model(CODES, None, labels))


def test_a_row_of_a_batch_is_computed_as_if_alone_up_to_rounding():
    model = perturbed()
    codes = torch.randint(6, (7, 3, 4), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(7) % 3
    alone = torch.cat([model(codes[i : i + 1], None, labels[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(model(codes, None, labels), alone, rtol=1e-4, atol=1e-4)


def test_sigma_acts_only_where_it_is_asked_for():
    sigma = torch.tensor([0.1, 3.0])
    free, timed = perturbed(), perturbed(time_conditioned=True)
    assert torch.equal(free(CODES, sigma), free(CODES, sigma * 2))
    assert not torch.allclose(timed(CODES, sigma), timed(CODES, sigma * 2))
    with pytest.raises(ValueError, match="sigma"):
        timed(CODES)


def test_rotary_products_depend_on_offsets_alone():
    angles = axial_rotary_angles(5, 5, 8)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def product(a, b):
        rotated = [
            rotate(v.view(1, 1, 1, 8), angles[i].cos()[None], angles[i].sin()[None]) for v, i in ((query, a), (key, b))
        ]
        return (rotated[0] * rotated[1]).sum()

    torch.testing.assert_close(product(0, 7), product(12, 19))  # both one row down, two columns on
    assert not torch.isclose(product(0, 7), product(0, 11))


def test_bad_width():
    with pytest.raises(ValueError, match="multiple"):
        Transformer2D(vocab_size=5, grid=(3, 4), width=30, heads=4)


def test_an_all_masked_grid_tells_positions_apart():
    model = perturbed()
    logits = model(torch.full((1, 3, 4), 5))[0].flatten(0, 1)  # (N, V)
    assert all(not torch.allclose(a, b) for i, a in enumerate(logits) for b in logits[:i])


def test_other_grids_than_trained():
    assert perturbed()(torch.zeros(1, 5, 6, dtype=torch.int64)).shape == (1, 5, 6, 5)

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import train
from common.config import TrainConfig
from common.errors import UserError, run_cli
from images.dataset import DataConfig
from tests.tiny import TINY
from training.run import build_accelerator
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig, adaptive_weight, hinge_generator_loss
from vq.quantizer import QuantizerConfig
from vq.stage import TokenizerStage
from vq.tokenizer import Tokenizer, TokenizerConfig

CONFIG = ["--config", "configs/mnist.yaml"]


def make(tmp_path, quantizer=None, layers=1, learning_rate_ratio=1.0, **loss):
    torch.manual_seed(0)
    settings = TrainConfig(steps=10, learning_rate=1e-3, grad_clip=1e9)
    config = TokenizerConfig(
        width=8,
        blocks=1,
        quantizer=quantizer or QuantizerConfig(codebook_size=16, codebook_dim=4, kmeans_init=False),
        discriminator=DiscriminatorConfig(width=8, layers=layers, learning_rate_ratio=learning_rate_ratio),
        loss=LossConfig(**({"perceptual": "none", "adversarial_start": 0, "adversarial_warmup": 0} | loss)),
        train=settings,
    )
    stage = TokenizerStage(config, DataConfig(image_size=16, channels=1), build_accelerator(settings, tmp_path))
    stage.set_learning_rate(1.0)
    stage.model.train()
    return stage


def boxes_on_white(number, seed):
    """Images `(number, 1, 16, 16)`: a box of random brightness on white, away from the border."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.ones(number, 1, 16, 16)
    for image in images[:, 0]:
        y, x = torch.randint(3, 7, (2,), generator=generator)
        image[y : y + 6, x : x + 6] = torch.rand(1, generator=generator) * 2 - 1
    return images


def batch(seed=1):
    return torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) * 2 - 1, torch.zeros(4)


def snapshot(stage):
    """Copies of all weights and buffers, by network and name."""
    networks = {"model": stage.model, "ema": stage.ema, "discriminator": stage.discriminator}
    return {(key, name): value.clone() for key, net in networks.items() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_surrogate_loss_has_the_gradient_of_the_weighted_sum(tmp_path, adaptive):
    stage = make(tmp_path, adaptive=adaptive, adversarial_weight=0.7, perceptual="efficientnet", perceptual_weight=0.3)
    images = batch()[0]
    state = {name: value.clone() for name, value in stage.model.state_dict().items()}
    output = stage.model(images)
    metrics, surrogate = stage._generator_losses(images, output.reconstruction, output.quantizer_losses, 5, True)
    surrogate.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in stage.model.named_parameters()}

    stage.model.load_state_dict(state)
    stage.model.zero_grad()
    output = stage.model(images)
    fake = output.reconstruction
    plain = F.l1_loss(fake, images) + 0.3 * stage.perceptual(fake, images).mean()
    adversarial = hinge_generator_loss(stage.discriminator(fake))
    weight = torch.tensor(0.7)
    if adaptive:
        last_layer = stage.model.decoder.conv_out.weight
        (a,) = torch.autograd.grad(plain, last_layer, retain_graph=True)
        (b,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
        weight = weight * adaptive_weight(a, b)
    torch.testing.assert_close(metrics["adversarial_weight"], weight, rtol=1e-3, atol=1e-5)
    (plain + weight * adversarial + sum(output.quantizer_losses.values())).backward()
    for name, parameter in stage.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_each_loss_is_logged_under_its_own_name(tmp_path):
    bits = QuantizerConfig(kind="lfq", codebook_size=16)
    loss = {"perceptual": "efficientnet", "adversarial": "non_saturating", "lecam_weight": 0.1, "r1_weight": 1.0}
    stage = make(tmp_path, bits, r1_every=2, **loss)
    first, second = stage.step(batch(), 0), stage.step(batch(), 1)
    names = {
        "loss_reconstruction", "loss_perceptual", "loss_commitment", "loss_entropy_each", "loss_entropy_mean",
        "loss_adversarial", "loss_discriminator", "loss_lecam", "loss_r1", "adversarial_weight", "logits_real",
        "logits_fake", "grad_norm", "grad_norm_discriminator", "skipped",
    }  # fmt: skip
    assert set(first) == names
    assert set(second) == names - {"loss_r1"}, "R1 is computed in every second step"
    assert all(math.isfinite(float(value)) for value in first.values())


def test_the_use_of_codes_is_counted_from_one_call_to_the_next(tmp_path):
    stage = make(tmp_path)
    stage.step(batch(), 0)
    use = stage.pop_metrics()
    assert 0 < use["codes_used"] <= 1
    assert 1 <= use["perplexity"] <= 16
    assert stage.pop_metrics() == {}


def test_the_adversarial_loss_starts_at_its_step_and_is_warmed_up(tmp_path):
    stage = make(tmp_path, adversarial_start=2, adversarial_warmup=4, adaptive=False, adversarial_weight=0.8)
    before = [parameter.clone() for parameter in stage.discriminator.parameters()]
    weights = []
    for step in range(7):
        metrics = stage.step(batch(step), step)
        weights.append(float(metrics.get("adversarial_weight", 0.0)))
        trained = any(not torch.equal(a, b) for a, b in zip(before, stage.discriminator.parameters(), strict=True))
        assert trained == (step >= 2), f"step {step}"
        assert ("loss_discriminator" in metrics) == (step >= 2), f"step {step}"
    assert weights == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_ema_copies_the_codebook_and_averages_the_weights(tmp_path):
    stage = make(tmp_path)
    codebook = "quantizer.quantize._codebook.embed"
    start = stage.model.state_dict()[codebook].clone()
    for step in range(3):
        stage.step(batch(step), step)
    model, ema = stage.model.state_dict(), stage.ema.module.state_dict()
    assert not torch.equal(model[codebook], start)
    assert torch.equal(model[codebook], ema[codebook])
    assert not torch.equal(model["encoder.conv_in.weight"], ema["encoder.conv_in.weight"])


def test_evaluation_and_export_use_the_ema_weights(tmp_path):
    stage = make(tmp_path)
    for step in range(3):
        stage.step(batch(step), step)
    loader = [batch(8), batch(9)]
    scores = stage.evaluate(loader)
    stage.export(tmp_path / "tokenizer", {"steps": 3})
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    images = torch.cat([images for images, _ in loader])
    errors = (loaded.reconstruct(images) - images).square().mean((1, 2, 3)) / 4  # in [0, 1]
    assert scores["psnr"] == pytest.approx(-10 * errors.log10().mean().item(), abs=1e-3)
    assert scores["codes_used"] == len(loaded.encode(images).unique()) / 16
    assert torch.equal(loaded.encoder.conv_in.weight, stage.ema.module.encoder.conv_in.weight)


def test_a_short_training_learns_white_corners(tmp_path):
    torch.set_num_threads(1)  # layers this small are faster without a second thread
    stage = make(tmp_path, adversarial_weight=0.0)
    for step in range(60):
        stage.step((boxes_on_white(8, seed=step), torch.zeros(8)), step)
    images = boxes_on_white(64, seed=999)
    corners = stage.ema.module.eval().reconstruct(images)[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    # By seed, 4 to 9 grey levels; 23 to 33 where the last convolution pads with zeros.
    assert (1 - corners).mean() * 127.5 < 15


@pytest.mark.parametrize("weight", ["lecam_weight", "r1_weight", "reconstruction_weight", "perceptual_weight"])
def test_each_weight_has_an_effect(tmp_path, weight):
    results = []
    for value in (0.0, 30.0):
        stage = make(tmp_path, adaptive=False, perceptual="efficientnet", **{weight: value})
        for step in range(2):
            stage.step(batch(step), 16 * step)
        results.append(torch.cat([p.flatten() for net in (stage.model, stage.discriminator) for p in net.parameters()]))
    assert not torch.allclose(*results, atol=1e-4)


def make_not_finite(where, stage, images, patch):
    if where == "latents":
        images[0, 0, 0, 0] = math.nan
    elif where == "loss":
        patch.setattr(stage, "reconstruction", lambda a, b: F.l1_loss(a, b) * math.nan)
    elif where == "gradient":  # the square root of zero is finite and has an infinite derivative
        patch.setattr(stage, "reconstruction", lambda a, b: (a - a.detach()).square().sum().sqrt())
    else:
        patch.setattr(stage, "discriminator_loss", lambda real, fake: real.mean() * math.inf)


@pytest.mark.parametrize("where", ["latents", "loss", "gradient", "discriminator"])
def test_a_step_that_is_not_finite_changes_no_weight_and_the_next_step_does(tmp_path, monkeypatch, where):
    stage = make(tmp_path, lecam_weight=0.1)
    stage.step(batch(), 0)
    before = snapshot(stage)
    images = batch(2)
    with monkeypatch.context() as patch:
        make_not_finite(where, stage, images[0], patch)
        assert stage.step(images, 1)["skipped"] == 1
    after = snapshot(stage)
    for (network, name), value in before.items():
        # With finite latents, the codebook and LeCAM are updated before the failure, and the generator before that of
        # the discriminator.
        updated = "quantizer" in name or "lecam" in name or (where == "discriminator" and network != "discriminator")
        assert (updated and where != "latents") or torch.equal(value, after[network, name]), (network, name)
        assert bool(after[network, name].isfinite().all()), (network, name)
    assert stage.step(batch(3), 2)["skipped"] == 0
    weight = ("model", "encoder.conv_in.weight")
    assert not torch.equal(snapshot(stage)[weight], after[weight])


def test_after_too_many_skipped_steps_the_run_stops_with_one_line_and_a_good_checkpoint(tmp_path, monkeypatch, capfd):
    original = TokenizerStage._generator_losses

    def fail_late(self, images, reconstruction, quantizer_losses, step, adversarial):
        if step >= 3:
            reconstruction = reconstruction * math.nan
        return original(self, images, reconstruction, quantizer_losses, step, adversarial)

    arguments = ["tokenizer", *CONFIG, *TINY, f"output_dir={tmp_path}", "tokenizer.train.steps=20"]
    arguments += ["tokenizer.train.max_skipped_steps=3", "tokenizer.train.keep_checkpoints=9"]
    with monkeypatch.context() as patch:
        patch.setattr(TokenizerStage, "_generator_losses", fail_late)
        assert run_cli(train.main, arguments) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    for words in ("3 steps in a row, up to step 6", "step-4", "learning_rate"):
        assert words in line
    rows = (tmp_path / "logs/tokenizer.jsonl").read_text().splitlines()
    assert '"skipped_steps": 2' in rows[-1]
    assert (tmp_path / "checkpoints/tokenizer/step-4/progress.json").is_file()
    # the checkpoint is complete: the same command with another learning rate resumes from it
    assert run_cli(train.main, [*arguments, "tokenizer.train.learning_rate=1e-4"]) == 0
    assert "resumes from" in capfd.readouterr().out


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(tmp_path):
    arguments = ["tokenizer", *CONFIG, *TINY, f"output_dir={tmp_path}", "tokenizer.loss.lecam_weight=0.1"]
    # each step uses random numbers: for the replacement of codes, and to flip images
    arguments += [
        "tokenizer.quantizer.kmeans_init=true",
        "tokenizer.quantizer.dead_code_threshold=80",
        "data.flip=true",
    ]
    assert run_cli(train.main, arguments) == 0
    whole = load_file(tmp_path / "tokenizer/model.safetensors")
    checkpoints = tmp_path / "checkpoints/tokenizer"
    discriminator = load_file(checkpoints / "step-4/model_1.safetensors")
    shutil.rmtree(checkpoints / "step-4")  # as after a crash between the two checkpoints
    assert run_cli(train.main, arguments) == 0
    resumed = load_file(tmp_path / "tokenizer/model.safetensors")
    assert whole.keys() == resumed.keys()
    assert discriminator["lecam.started"] == 1
    for name, value in whole.items():
        torch.testing.assert_close(value, resumed[name], rtol=1e-4, atol=1e-5, msg=name)
    for name, value in load_file(checkpoints / "step-4/model_1.safetensors").items():
        torch.testing.assert_close(value, discriminator[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_discriminator_has_its_own_learning_rate(tmp_path):
    stage = make(tmp_path, learning_rate_ratio=0.25)
    stage.set_learning_rate(0.5)
    assert [group["lr"] for optimizer in stage.optimizers for group in optimizer.param_groups] == [5e-4, 1.25e-4]


def test_a_discriminator_with_too_many_layers_for_the_images_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"16 pixels.*halved 5 times: set tokenizer\.discriminator\.layers to 4 or less"
    ):
        make(tmp_path, layers=5)

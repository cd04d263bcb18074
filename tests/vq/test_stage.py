import math
import shutil

import pytest
import torch
import torch.nn.functional as F

import train
from common.config import TrainConfig
from common.errors import run_cli
from images.dataset import DataConfig
from tests.tiny import TINY
from training.run import build_accelerator
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig, adaptive_weight, hinge_generator_loss
from vq.quantizer import QuantizerConfig, build_quantizer
from vq.stage import TokenizerStage
from vq.tokenizer import TokenizerConfig

CONFIG = ["--config", "configs/mnist.yaml"]


def make(tmp_path, quantizer=None, **loss):
    torch.manual_seed(0)
    settings = TrainConfig(steps=10, learning_rate=1e-3, grad_clip=1e9)
    config = TokenizerConfig(
        width=8,
        blocks=1,
        quantizer=quantizer or QuantizerConfig(codebook_size=16, codebook_dim=4, kmeans_init=False),
        discriminator=DiscriminatorConfig(width=8, layers=1),
        loss=LossConfig(**({"perceptual": "none", "adversarial_start": 0, "adversarial_warmup": 0} | loss)),
        train=settings,
    )
    stage = TokenizerStage(config, DataConfig(image_size=16, channels=1), build_accelerator(settings, tmp_path))
    stage.set_learning_rate(1.0)
    stage.model.train()
    return stage


def batch(seed=1):
    return torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) * 2 - 1, torch.zeros(4)


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_backward_pass_carries_the_gradient_of_the_weighted_sum(tmp_path, adaptive):
    stage = make(tmp_path, adaptive=adaptive, adversarial_weight=0.7, perceptual="efficientnet", perceptual_weight=0.3)
    images = batch()[0]
    state = {name: value.clone() for name, value in stage.model.state_dict().items()}
    output = stage.model(images)
    metrics, carrier = stage._generator_losses(images, output.reconstruction, output.quantizer_losses, 5, True)
    carrier.backward()
    got = {name: parameter.grad.clone() for name, parameter in stage.model.named_parameters()}

    stage.model.load_state_dict(state)
    stage.model.zero_grad()
    output = stage.model(images)
    picture = output.reconstruction
    plain = F.l1_loss(picture, images) + 0.3 * stage.perceptual(picture, images).mean()
    adversarial = hinge_generator_loss(stage.discriminator(picture))
    weight = torch.tensor(0.7)
    if adaptive:
        last = stage.model.decoder.conv_out.weight
        (a,) = torch.autograd.grad(plain, last, retain_graph=True)
        (b,) = torch.autograd.grad(adversarial, last, retain_graph=True)
        weight = weight * adaptive_weight(a, b)
    torch.testing.assert_close(metrics["adversarial_weight"], weight, rtol=1e-3, atol=1e-5)
    (plain + weight * adversarial + sum(output.quantizer_losses.values())).backward()
    for name, parameter in stage.model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_every_part_is_logged_under_its_own_name(tmp_path):
    bits = QuantizerConfig(kind="lfq", codebook_size=16)
    loss = {"perceptual": "efficientnet", "adversarial": "non_saturating", "lecam_weight": 0.1, "r1_weight": 1.0}
    stage = make(tmp_path, bits, r1_every=2, **loss)
    first, second = stage.step(batch(), 0), stage.step(batch(), 1)
    parts = {
        "loss_reconstruction", "loss_perceptual", "loss_commitment", "loss_entropy_each", "loss_entropy_mean",
        "loss_adversarial", "loss_discriminator", "loss_lecam", "loss_r1", "adversarial_weight", "logits_real",
        "logits_fake", "grad_norm", "grad_norm_discriminator", "skipped",
    }  # fmt: skip
    assert set(first) == parts and set(second) == parts - {"loss_r1"}
    assert all(math.isfinite(float(value)) for value in first.values())
    use = stage.pop_metrics()
    assert 0 < use["codes_used"] <= 1 and 1 <= use["perplexity"] <= 16 and stage.pop_metrics() == {}


def test_the_adversarial_part_starts_when_told_and_warms_in(tmp_path):
    stage = make(tmp_path, adversarial_start=2, adversarial_warmup=4, adaptive=False, adversarial_weight=0.8)
    judge = [parameter.clone() for parameter in stage.discriminator.parameters()]
    weights = []
    for step in range(7):
        metrics = stage.step(batch(step), step)
        weights.append(float(metrics.get("adversarial_weight", 0.0)))
        moved = any(not torch.equal(a, b) for a, b in zip(judge, stage.discriminator.parameters(), strict=True))
        assert moved == (step >= 2) == ("loss_discriminator" in metrics)
    assert weights == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_the_average_takes_the_codebook_over_and_averages_the_weights(tmp_path):
    stage = make(tmp_path)
    start = stage.model.state_dict()["quantizer.quantize._codebook.embed"].clone()
    for step in range(3):
        stage.step(batch(step), step)
    model, average = stage.model.state_dict(), stage.ema.module.state_dict()
    assert not torch.equal(model["quantizer.quantize._codebook.embed"], start)
    assert torch.equal(model["quantizer.quantize._codebook.embed"], average["quantizer.quantize._codebook.embed"])
    assert not torch.equal(model["encoder.conv_in.weight"], average["encoder.conv_in.weight"])


@pytest.mark.parametrize("weight", ["lecam_weight", "r1_weight", "reconstruction_weight", "perceptual_weight"])
def test_every_weight_acts(tmp_path, weight):
    ends = []
    for value in (0.0, 30.0):
        stage = make(tmp_path, adaptive=False, perceptual="efficientnet", **{weight: value})
        for step in range(2):
            stage.step(batch(step), 16 * step)
        ends.append(torch.cat([p.flatten() for net in (stage.model, stage.discriminator) for p in net.parameters()]))
    assert not torch.allclose(*ends, atol=1e-4)


@pytest.mark.parametrize("where", ["latents", "loss", "gradient", "discriminator"])
def test_a_step_that_is_not_finite_moves_no_weight_and_the_next_one_does(tmp_path, monkeypatch, where):
    stage = make(tmp_path, lecam_weight=0.1)
    stage.step(batch(), 0)
    nets = {"model": stage.model, "ema": stage.ema, "discriminator": stage.discriminator}
    before = {(k, n): v.clone() for k, net in nets.items() for n, v in net.state_dict().items()}
    images = batch(2)
    with monkeypatch.context() as patch:
        if where == "latents":
            images[0][0, 0, 0, 0] = math.nan
        elif where == "loss":
            patch.setattr(stage, "reconstruction", lambda a, b: F.l1_loss(a, b) * math.nan)
        elif where == "gradient":  # the root of a distance of zero: finite, with an infinite slope
            patch.setattr(stage, "reconstruction", lambda a, b: (a - a.detach()).square().sum().sqrt())
        else:
            patch.setattr(stage, "discriminator_loss", lambda real, fake: real.mean() * math.inf)
        assert stage.step(images, 1)["skipped"] == 1
    after = {(k, n): v for k, net in nets.items() for n, v in net.state_dict().items()}
    for key, value in before.items():
        # With finite latents the codebook has taken its step by then, so has LeCAM, and a generator whose judge fails later.
        late = where == "discriminator" and key[0] != "discriminator"
        allowed = where != "latents" and ("quantizer" in key[1] or "lecam" in key[1] or late)
        assert allowed or torch.equal(value, after[key]), key
        assert bool(after[key].isfinite().all()), key
    assert stage.step(batch(3), 2)["skipped"] == 0
    assert not torch.equal(after["model", "encoder.conv_in.weight"], before["model", "encoder.conv_in.weight"])


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
    assert "3 steps in a row, up to step 6" in line and "step-4" in line and "learning_rate" in line
    rows = (tmp_path / "logs/tokenizer.jsonl").read_text().splitlines()
    assert '"skipped_steps": 2' in rows[-1]
    assert (tmp_path / "checkpoints/tokenizer/step-4/progress.json").is_file()
    # the checkpoint is whole and good: the same command, mended, goes on from it
    assert run_cli(train.main, [*arguments, "tokenizer.train.learning_rate=1e-4"]) == 0
    assert "resumes from" in capfd.readouterr().out


def test_resuming_gives_the_weights_of_an_unbroken_run(tmp_path):
    from safetensors.torch import load_file

    more = ["tokenizer.loss.lecam_weight=0.1", "tokenizer.quantizer.kmeans_init=true"]
    arguments = ["tokenizer", *CONFIG, *TINY, f"output_dir={tmp_path}", *more]
    # so that every step draws: which codes to replace by what, and which pictures to mirror
    arguments += ["tokenizer.quantizer.dead_code_threshold=80", "data.flip=true"]
    assert run_cli(train.main, arguments) == 0
    whole = load_file(tmp_path / "tokenizer/model.safetensors")
    checkpoints = tmp_path / "checkpoints/tokenizer"
    judge = load_file(checkpoints / "step-4/model_1.safetensors")
    shutil.rmtree(checkpoints / "step-4")  # as after a crash between the two checkpoints
    assert run_cli(train.main, arguments) == 0
    again = load_file(tmp_path / "tokenizer/model.safetensors")
    assert whole.keys() == again.keys() and judge["lecam.started"] == 1
    for name, value in whole.items():
        torch.testing.assert_close(value, again[name], rtol=1e-4, atol=1e-5, msg=name)
    for name, value in load_file(checkpoints / "step-4/model_1.safetensors").items():
        torch.testing.assert_close(value, judge[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_that_never_was_finite_after_its_start_keeps_what_it_had(tmp_path, monkeypatch, capfd):
    original = TokenizerStage.step

    def fail_late(self, batch, step):
        return original(self, (batch[0] * (math.nan if step >= 3 else 1), batch[1]), step)

    monkeypatch.setattr(TokenizerStage, "step", fail_late)
    arguments = ["tokenizer", *CONFIG, *TINY, f"output_dir={tmp_path}", "tokenizer.train.checkpoint_every=1000"]
    arguments += ["tokenizer.train.steps=20", "tokenizer.train.max_skipped_steps=3"]
    assert run_cli(train.main, arguments) == 2
    assert "step-3" in capfd.readouterr().err and (tmp_path / "checkpoints/tokenizer/step-3/progress.json").is_file()


@pytest.mark.parametrize(
    ("key", "part"),
    [("commitment_weight", "commitment"), ("entropy_weight", "entropy_each"), ("entropy_weight", "entropy_mean"),
     ("entropy_gamma", "entropy_mean")],
)  # fmt: skip
def test_the_quantizers_weights_scale_their_parts(key, part):
    values = []
    for scale in (0.5, 1.5):
        quantizer = build_quantizer(
            QuantizerConfig(kind="lfq", codebook_size=16, entropy_temperature=1.0, **{key: scale})
        )
        torch.manual_seed(0)
        values.append(quantizer.train()(torch.randn(2, 4, 5, 5)).losses[part])
    assert abs(values[0]) > 0 and (values[0] < 0) == (part == "entropy_mean")  # a varied mean is rewarded
    torch.testing.assert_close(values[1], 3 * values[0])


def test_the_discriminators_learning_rate_is_scaled_by_its_ratio(tmp_path):
    stage = make(tmp_path)
    stage.learning_rate_ratios = (1.0, 0.25)
    stage.set_learning_rate(0.5)
    assert [group["lr"] for optimizer in stage.optimizers for group in optimizer.param_groups] == [5e-4, 1.25e-4]


def test_a_discriminator_deeper_than_the_picture_is_refused(tmp_path, capfd):
    arguments = ["tokenizer", *CONFIG, *TINY, f"output_dir={tmp_path}", "tokenizer.discriminator.layers=6"]
    assert run_cli(train.main, arguments) == 2
    assert "tokenizer.discriminator.layers to 5 or less" in capfd.readouterr().err

"""Training of the tokenizer: one step of generator and discriminator. The loop around it is in train.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from common.errors import UserError
from common.metrics import codebook_use, psnr
from common.optim import build_ema, optimizer_step
from images.dataset import DataConfig
from vq.discriminator import build_discriminator
from vq.loss import ADVERSARIAL, RECONSTRUCTION, LeCam, adaptive_weight, build_perceptual, r1_penalty, warm_in
from vq.tokenizer import Tokenizer, TokenizerConfig


class TokenizerStage:
    """VQ-GAN training (arXiv 2012.09841) on pictures `(B, C, H, W)` in [-1, 1]."""

    name = "tokenizer"

    def __init__(self, config: TokenizerConfig, data: DataConfig, accelerator: Accelerator) -> None:
        self.accelerator, self.train, self.loss = accelerator, config.train, config.loss
        if data.image_size < 2**config.discriminator.layers:
            raise UserError(
                f"a discriminator of {config.discriminator.layers} layers halves {data.image_size} pixels away: set "
                f"tokenizer.discriminator.layers to {data.image_size.bit_length() - 1} or less"
            )
        model = Tokenizer(config, data.image_size, data.channels, sync_codebook=accelerator.num_processes > 1)
        discriminator = build_discriminator(config.discriminator, data.channels)
        if config.loss.lecam_weight:
            discriminator.add_module("lecam", LeCam(config.loss.lecam_decay))  # there, its averages are checkpointed
        perceptual, self.perceptual_name = build_perceptual(config.loss.perceptual)
        self.perceptual = perceptual.to(accelerator.device) if perceptual is not None else None
        self.reconstruction = RECONSTRUCTION[config.loss.reconstruction]
        self.discriminator_loss, self.generator_loss = ADVERSARIAL[config.loss.adversarial]
        self.ema = build_ema(model, config.train.ema_decay).to(accelerator.device)
        self.counts = torch.zeros(model.codebook_size, dtype=torch.int64, device=accelerator.device)
        betas = (config.train.betas[0], config.train.betas[1])
        self.ratios = (1.0, config.discriminator.learning_rate_ratio)
        optimizers = [
            torch.optim.AdamW(net.parameters(), 1.0, betas, weight_decay=config.train.weight_decay, fused=True)
            for net in (model, discriminator)
        ]
        self.model, self.discriminator, *self.optimizers = accelerator.prepare(model, discriminator, *optimizers)

    def set_learning_rate(self, scale: float) -> None:
        """Set the learning rates to `scale` times the configured ones."""
        for optimizer, ratio in zip(self.optimizers, self.ratios, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = self.train.learning_rate * ratio * scale

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """One update of the generator, and from `adversarial_start` on one of the discriminator.

        A step whose loss or gradient is not finite in any process moves no weight; `skipped` is then 1.
        """
        images = batch[0].to(self.accelerator.device)
        adversarial = self.loss.adversarial_weight > 0 and step >= self.loss.adversarial_start
        output = self.model(images)
        reconstruction = output.reconstruction.float()
        metrics, carrier = self._generator_losses(images, reconstruction, output.quantizer_losses, step, adversarial)
        moved = self._update(0, self.model, carrier, metrics)
        if moved:
            self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
            self.counts += torch.bincount(output.codes.flatten(), minlength=len(self.counts))
            if adversarial:
                judged, loss = self._discriminator_losses(images, reconstruction.detach(), step)
                moved = self._update(1, self.discriminator, loss, judged)
                metrics |= judged
        return {name: value.detach() for name, value in metrics.items()} | {"skipped": images.new_tensor(not moved)}

    def _update(self, which: int, network: torch.nn.Module, loss: Tensor, metrics: dict[str, Tensor]) -> bool:
        name = ("grad_norm", "grad_norm_discriminator")[which]
        return optimizer_step(
            self.accelerator, network, self.optimizers[which], loss, metrics, self.train.grad_clip, name
        )

    def _generator_losses(
        self, images: Tensor, reconstruction: Tensor, quantizer_losses: dict[str, Tensor], step: int, adversarial: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """All losses by name, and a scalar whose backward pass carries the gradient of their weighted sum.

        Each loss sends its gradient to the picture once; from there the last layer's share of it is cheap.
        """
        image = reconstruction.detach().requires_grad_()
        loss_reconstruction = self.reconstruction(image, images)
        loss_perceptual = self.perceptual(image, images).mean() if self.perceptual is not None else image.new_zeros(())
        loss = self.loss.reconstruction_weight * loss_reconstruction + self.loss.perceptual_weight * loss_perceptual
        (gradient,) = torch.autograd.grad(loss, image)
        metrics = {"loss_reconstruction": loss_reconstruction, "loss_perceptual": loss_perceptual}
        metrics |= {f"loss_{name}": value for name, value in quantizer_losses.items()}
        share = warm_in(step, self.loss.adversarial_start, self.loss.adversarial_warmup)
        if adversarial and share > 0:
            judge = self.accelerator.unwrap_model(self.discriminator)
            loss_adversarial = self.generator_loss(judge(image).float())
            # A picture's share of a mean is below what float16 holds: up by the number of pixels on the way, down after it.
            (adversarial_gradient,) = torch.autograd.grad(loss_adversarial * image.numel(), image)
            adversarial_gradient = adversarial_gradient / image.numel()
            weight = image.new_tensor(self.loss.adversarial_weight * share)
            if self.loss.adaptive:
                last = self.accelerator.unwrap_model(self.model).decoder.conv_out.weight
                at_last = [
                    torch.autograd.grad(reconstruction, last, g * image.numel(), retain_graph=True)[0] / image.numel()
                    for g in (gradient, adversarial_gradient)
                ]
                weight = weight * adaptive_weight(at_last[0], at_last[1])
            gradient = gradient + weight * adversarial_gradient
            metrics |= {"loss_adversarial": loss_adversarial, "adversarial_weight": weight}
        # This sum's gradient with respect to the reconstruction is `gradient`, so one backward pass serves all losses.
        carrier = (reconstruction * gradient).sum()
        for value in quantizer_losses.values():
            carrier = carrier + value
        return metrics, carrier

    def _discriminator_losses(
        self, images: Tensor, reconstruction: Tensor, step: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The discriminator's losses by name, and their weighted sum."""
        penalize = self.loss.r1_weight > 0 and step % self.loss.r1_every == 0
        images = images.detach().requires_grad_(penalize)
        real, fake = self.discriminator(torch.cat([images, reconstruction])).float().chunk(2)
        loss = self.discriminator_loss(real, fake)
        metrics = {"loss_discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        if self.loss.lecam_weight:
            lecam = self.accelerator.unwrap_model(self.discriminator).lecam
            metrics["loss_lecam"] = lecam(real, fake)
            loss = loss + self.loss.lecam_weight * metrics["loss_lecam"]
            means = torch.stack([real.detach().mean(), fake.detach().mean()])
            lecam.update(*self.accelerator.reduce(means, "mean"))
        if penalize:
            metrics["loss_r1"] = r1_penalty(real, images)
            loss = loss + self.loss.r1_weight * self.loss.r1_every * metrics["loss_r1"]
        return metrics, loss

    def pop_metrics(self) -> dict[str, float]:
        """Share of codes used and perplexity, over all processes, since the last call. All processes call this together."""
        counts = self.accelerator.reduce(self.counts, "sum")
        self.counts.zero_()
        return codebook_use(counts.cpu()) if int(counts.sum()) else {}

    @torch.no_grad()
    def evaluate(self, loader: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """PSNR in dB, share of codes used and perplexity on held-out pictures, with the averaged weights."""
        tokenizer = self.ema.module.eval()
        assert isinstance(tokenizer, Tokenizer)
        counts = torch.zeros(tokenizer.codebook_size, dtype=torch.int64)
        decibels = []
        for images, _ in loader:
            images = images.to(self.accelerator.device)
            codes = tokenizer.encode(images)
            counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
            decibels.append(psnr(tokenizer.decode(codes), images).cpu())
        return {"psnr": torch.cat(decibels).mean().item()} | codebook_use(counts)

    def export(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write config.json and the averaged weights."""
        tokenizer = self.ema.module
        assert isinstance(tokenizer, Tokenizer)
        tokenizer.save(directory, {"perceptual": self.perceptual_name, **provenance})

"""Training of the tokenizer: one step of generator and discriminator. The loop around it is in train.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from common.checkpoint import warm_ema
from common.data import DataConfig
from common.metrics import codebook_use, psnr
from vq.discriminator import PatchDiscriminator
from vq.loss import adaptive_weight, build_perceptual, hinge_discriminator_loss
from vq.tokenizer import Tokenizer, TokenizerConfig


class TokenizerStage:
    """VQ-GAN training (arXiv 2012.09841) on pictures `(B, C, H, W)` in [-1, 1]."""

    name = "tokenizer"

    def __init__(self, config: TokenizerConfig, data: DataConfig, accelerator: Accelerator) -> None:
        self.accelerator, self.train, self.loss = accelerator, config.train, config.loss
        model = Tokenizer(config, data.image_size, data.channels, sync_codebook=accelerator.num_processes > 1)
        discriminator = PatchDiscriminator(config.discriminator, data.channels)
        perceptual, self.perceptual_name = build_perceptual(config.loss.perceptual)
        self.perceptual = perceptual.to(accelerator.device) if perceptual is not None else None
        self.ema = warm_ema(model, config.train.ema_decay).to(accelerator.device)
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
        """One update of the generator, and from `adversarial_start` on one of the discriminator."""
        images = batch[0].to(self.accelerator.device)
        adversarial = self.loss.adversarial_weight > 0 and step >= self.loss.adversarial_start
        output = self.model(images)
        metrics = self._generator_step(images, output.reconstruction, output.quantizer_loss, adversarial)
        self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        if adversarial:
            metrics |= self._discriminator_step(images, output.reconstruction.detach().float())
        return metrics

    def _generator_step(
        self, images: Tensor, reconstruction: Tensor, quantizer_loss: Tensor, adversarial: bool
    ) -> dict[str, Tensor]:
        generator = self.accelerator.unwrap_model(self.model)
        image = reconstruction.detach().float().requires_grad_()
        loss_l1 = F.l1_loss(image, images)
        loss_perceptual = self.perceptual(image, images).mean() if self.perceptual is not None else image.new_zeros(())
        (gradient,) = torch.autograd.grad(loss_l1 + self.loss.perceptual_weight * loss_perceptual, image)
        metrics = {
            "loss_reconstruction": loss_l1,
            "loss_perceptual": loss_perceptual,
            "loss_commitment": quantizer_loss,
        }
        if adversarial:
            discriminator = self.accelerator.unwrap_model(self.discriminator)
            loss_adversarial = -discriminator(image).mean()
            (adversarial_gradient,) = torch.autograd.grad(loss_adversarial, image)
            # Each loss has sent its gradient to the picture once; from there the last layer's share of it is cheap.
            last = generator.decoder.last_layer.weight
            at_last = [
                torch.autograd.grad(reconstruction, last, g.to(reconstruction.dtype), retain_graph=True)[0]
                for g in (gradient, adversarial_gradient)
            ]
            weight = adaptive_weight(at_last[0], at_last[1])
            gradient = gradient + self.loss.adversarial_weight * weight * adversarial_gradient
            metrics |= {"loss_adversarial": loss_adversarial, "adaptive_weight": weight}
        # This sum's gradient with respect to the reconstruction is `gradient`, so one backward pass serves all losses.
        self.accelerator.backward((reconstruction.float() * gradient).sum() + quantizer_loss)
        metrics["grad_norm"] = self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.grad_clip)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad(set_to_none=True)
        return {name: value.detach() for name, value in metrics.items()}

    def _discriminator_step(self, images: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        real, fake = self.discriminator(torch.cat([images, reconstruction])).float().chunk(2)
        loss = hinge_discriminator_loss(real, fake)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.discriminator.parameters(), self.train.grad_clip)
        self.optimizers[1].step()
        self.optimizers[1].zero_grad(set_to_none=True)
        return {"loss_discriminator": loss.detach()}

    @torch.no_grad()
    def evaluate(self, loader: DataLoader) -> dict[str, float]:
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

    def export(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write config.json and the averaged weights."""
        tokenizer = self.ema.module
        assert isinstance(tokenizer, Tokenizer)
        tokenizer.save(directory, {"perceptual": self.perceptual_name} | extra)

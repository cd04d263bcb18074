"""A generator without a network: it inverts the pixels under the mask, a little differently in every variant."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from diffusion.graph import Absorbing
from diffusion.settings import SamplingSettings

SETTINGS = SamplingSettings(num_inference_steps=4)


class FakeGenerator:
    def __init__(self, classes=("round", "long"), graph=Absorbing, defaults=SETTINGS, pause=0.0):
        self.tokenizer = SimpleNamespace(image_size=32, channels=1, downsample=4, codebook_size=16)
        self.prior = SimpleNamespace(graph=graph(16), grid=(8, 8))
        self.class_names, self.guided, self.defaults = list(classes), bool(classes), defaults
        self.pause = pause  # seconds per step
        self.failure = None  # raised in the next step
        self.calls = []  # the keyword arguments of each call
        self.running = self.most_running = self.previews = 0
        self.lock = threading.Lock()

    def settings(self, **options):
        return self.defaults.updated(options)

    def inpainting_settings(self, **options):
        chosen = "sampler" in options or self.prior.graph.is_masked
        return self.settings(**{} if chosen else {"sampler": "predictor_corrector"}, **options)

    def generate(self, n, class_labels, *, callback_on_step_end, **options):
        self.sample(n, callback_on_step_end, {"class_labels": class_labels, **options})
        return [Image.new("L", (32, 32), 40 * (i % 5)) for i in range(n)]

    def outpaint(self, image, left, top, right, bottom, n, class_labels, *, callback_on_step_end, **options):
        sides = (left, top, right, bottom)
        self.sample(n, callback_on_step_end, {"class_labels": class_labels, "sides": sides, **options})
        results = [Image.new("RGB", (left + image.width + right, top + image.height + bottom)) for _ in range(n)]
        for result in results:
            result.paste(image.convert("RGB"), (left, top))
        return results

    def vary(self, image, strength, n, class_labels, *, callback_on_step_end, **options):
        self.sample(n, callback_on_step_end, {"class_labels": class_labels, "strength": strength, **options})
        return [image.convert("RGB").point(lambda value, i=i: value // (i + 1)) for i in range(n)]

    def morph(self, image, other, n, strength, class_labels, *, callback_on_step_end, **options):
        for _ in range(n - 2):
            self.sample(1, callback_on_step_end, {"class_labels": class_labels, "strength": strength, **options})
        return [Image.blend(image.convert("RGB"), other.convert("RGB"), i / (n - 1)) for i in range(n)]

    def inpaint(self, image, mask_image, n, class_labels, *, callback_on_step_end, **options):
        self.sample(n, callback_on_step_end, {"class_labels": class_labels, **options})
        white = np.asarray(mask_image.convert("L")) >= 128
        results = []
        for variant in range(n):
            pixels = np.array(image.convert("RGB"))
            pixels[white] = 255 - pixels[white] - (pixels[white] < 128) * variant
            results.append(Image.fromarray(pixels))
        return results

    def sample(self, n, callback_on_step_end, options):
        self.calls.append(options)
        steps = options["settings"].num_inference_steps
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            for step in range(steps):
                time.sleep(self.pause)
                if self.failure:
                    raise self.failure
                codes = torch.zeros((n, 8, 8), dtype=torch.int64)
                callback_on_step_end(self, step, 1 - (step + 1) / steps, {"codes": codes})
        finally:
            with self.lock:
                self.running -= 1

    def preview(self, codes):
        self.previews += 1
        height, width = codes.shape[1] * 4, codes.shape[2] * 4
        return [Image.new("L", (width, height), 128) for _ in codes]

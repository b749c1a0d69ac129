"""Sounds as vectors that are near where they sound alike: mean and spread of their log-mel spectrum (Davis & Mermelstein 1980, before the cosine transform), and of how it
changes. Arrays in, arrays out; nothing is trained.
"""

import numpy as np

NAME, LICENCE, BANDS = "log-mel statistics", "this project's", 40
WIDTH = 4 * BANDS
RATE = 16_000  # samples a second
WINDOW, STEP = 400, 160  # samples
LOWEST, HIGHEST = 60.0, 7600.0  # hertz


def encode(sounds: list[np.ndarray]) -> np.ndarray:
    """Sounds (samples,) float32 at RATE, between -1 and 1 -> (N, WIDTH) float32 of length 1; silence is zeros."""
    return np.stack([_statistics(sound) for sound in sounds]) if sounds else np.zeros((0, WIDTH), np.float32)


def weights() -> bytes:
    """What the outcome depends on."""
    return repr((NAME, BANDS, RATE, WINDOW, STEP, LOWEST, HIGHEST)).encode()


def _statistics(sound: np.ndarray) -> np.ndarray:
    if not np.any(sound):
        return np.zeros(WIDTH, np.float32)
    sound = np.pad(sound, (0, max(0, WINDOW - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STEP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    loud = np.log(power @ _bands().T + 1e-6)
    changes = np.diff(loud, axis=0, append=loud[-1:])
    found = np.concatenate([loud.mean(0) - loud.mean(), loud.std(0), changes.std(0), np.abs(changes).mean(0)])
    return (found / max(np.linalg.norm(found), 1e-9)).astype(np.float32)


def _bands() -> np.ndarray:
    """Triangles of equal width on the mel scale: (BANDS, WINDOW // 2 + 1)."""
    mel = np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)), 0, None)


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)

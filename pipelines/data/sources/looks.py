"""What items of the simulated shop look like: a picture drawn, and a description written, from the hidden style that shoppers' tastes are about.

In: styles (N, 6) and words of the catalogue. Out: pictures as data URIs, descriptions, and the truth: which of LOOKS each item has. Position, size, light and grain are drawn by chance, as photographs differ.
"""

import base64
import colorsys
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 96  # pixels
LOOKS = 8  # by the signs of the first three numbers of a style
# Of each number of a style, what is written where it is low and where it is high: English and Chinese, of which one way is drawn.
WORDS = (
    ((("in warm tones", "暖色调"), ("the colours of autumn leaves", "秋叶般的色彩"), ("amber and rust hues", "琥珀与铁锈色系")),
     (("in cool tones", "冷色调"), ("the colours of the sea", "海洋般的色彩"), ("blue and teal hues", "蓝绿色系"))),
    ((("with stripes", "条纹图案"), ("lined all over", "满布线条"), ("with a pinstripe print", "细条印花")),
     (("with dots", "圆点图案"), ("speckled all over", "满布斑点"), ("with a polka dot print", "波点印花"))),
    ((("softly rounded", "圆润造型"), ("with curved edges", "弧形边缘"), ("of a gentle, circular form", "柔和的圆形设计")),
     (("sharply cut", "棱角分明"), ("with straight corners", "直角边缘"), ("of a strict, square form", "硬朗的方形设计"))),
    ((("muted and matte", "低饱和哑光"), ("quiet, dusty shades", "安静的灰调")), (("vivid and glossy", "鲜艳亮面"), ("loud, saturated shades", "张扬的高饱和色"))),
    ((("a large, calm pattern", "疏朗的大图案"), ("generously spaced", "间距宽松")), (("a small, busy pattern", "密集的小图案"), ("closely packed", "排列紧密"))),
    ((("a fine outline", "纤细描边"), ("delicate borders", "精致边线")), (("a bold outline", "粗犷描边"), ("heavy borders", "厚重边线"))),
)  # fmt: skip
TOLD = 0.3  # of a style's number, from which it is written of


def looks(style: np.ndarray) -> np.ndarray:
    """Which look each item has: (N,) integers under LOOKS."""
    return ((style[:, :3] > 0) * [1, 2, 4]).sum(1)


def described(style: np.ndarray, rng: np.random.Generator) -> list[tuple[str, str]]:
    """What is written of each style: English and Chinese."""
    written = []
    for row in style:
        ways = [sides[int(number > 0)] for number, sides in zip(row, WORDS, strict=True) if abs(number) > TOLD]
        said = [way[rng.integers(len(way))] for way in ways]
        written.append(("; ".join(english for english, _ in said), "，".join(chinese for _, chinese in said)))
    return written


def drawn(style: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A picture of each style, as a data URI of a PNG."""
    return ["data:image/png;base64," + base64.b64encode(_png(row, rng)).decode() for row in style]


def _png(style: np.ndarray, rng: np.random.Generator) -> bytes:
    strength = 1 / (1 + np.exp(-np.abs(style)))  # 0.5 to 1
    warm = style[0] < 0
    hue = (0.02 + 0.10 * strength[0] if warm else 0.52 + 0.12 * strength[0]) + rng.normal(0, 0.008)
    muted = style[3] < 0
    own = _colour(hue, 0.35 if muted else 0.85, 0.75 if muted else 0.9)
    dark = _colour(hue, 0.5 if muted else 0.95, 0.4)
    paper = tuple(int(x) for x in np.clip(rng.normal(243, 5, 3), 225, 255))
    big = 2 * SIDE
    image, mask = Image.new("RGB", (big, big), paper), Image.new("L", (big, big), 0)
    size = big * rng.uniform(0.30, 0.36)
    x, y = big / 2 + rng.normal(0, big * 0.03, 2)
    box = (x - size, y - size, x + size, y + size)
    pen = ImageDraw.Draw(mask)
    draw_form = pen.ellipse if style[2] < 0 else pen.rectangle
    draw_form(box, fill=255)
    cloth = Image.new("RGB", (big, big), own)
    pattern = ImageDraw.Draw(cloth)
    gap = int(big * (0.16 - 0.05 * strength[4] * np.sign(style[4])))
    at = int(rng.integers(gap))
    for i in range(at - gap, big + gap, gap):
        if style[1] < 0:
            pattern.line((i, -gap, i, big + gap), fill=dark, width=max(2, gap // 3))
        else:
            for j in range(at - gap, big + gap, gap):
                r = gap // 4
                pattern.ellipse((i - r, j - r, i + r, j + r), fill=dark)
    image.paste(cloth, mask=mask)
    outline = ImageDraw.Draw(image)
    (outline.ellipse if style[2] < 0 else outline.rectangle)(box, outline=dark, width=3 if style[5] < 0 else 10)
    image = image.rotate(rng.normal(0, 4), fillcolor=paper).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    light = np.asarray(image).astype(np.float32) * rng.uniform(0.92, 1.05) + rng.normal(0, 3, (SIDE, SIDE, 1))
    file = io.BytesIO()
    Image.fromarray(light.clip(0, 255).astype(np.uint8)).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def _colour(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(int(255 * x) for x in colorsys.hsv_to_rgb(hue % 1, saturation, value))

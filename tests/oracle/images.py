#!/usr/bin/env python3
"""What Pillow, transformers and others make of images: pixels of files of every kind, sizes changed by every filter, what image processors
give a model, colours adjusted, corruptions.

Writes <out>/*.safetensors (default out: ../reference/images).  A file and what it holds are tensors of one file: `file:NAME` its bytes,
`rgb:NAME` (height, width, 3) what Pillow's convert("RGB") makes of it, `deep:NAME` its 16 bits, `labels:NAME` its numbers.
With --corpus DIR the smallest files of each kind go there as seeds of the fuzz target, each behind a byte that says how it is read.
"""
import argparse
import io
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def picture(height, width, seed=0):
    """Smooth colours with some noise and an edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [np.sin(x / (5 + c)) * np.cos(y / (4 + c)) * 90 + 128 + 40 * ((x + 2 * y) > width) for c in range(3)]
    return np.clip(np.stack(planes, -1) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


# ---- files -----------------------------------------------------------------------------------------------------------------


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array, color, bits, interlaced=False, extra=b""):
    """A PNG of samples (height, width, channels) as written by hand: what Pillow does not write."""
    height, width, _ = array.shape

    def rows(part):
        out = b""
        for row in part:
            if bits == 16:
                out += b"\0" + row.astype(">u2").tobytes()
            elif bits == 8:
                out += b"\0" + row.astype(np.uint8).tobytes()
            else:
                flat = row.reshape(-1)
                packed = np.zeros((len(flat) * bits + 7) // 8, np.uint8)
                for i, v in enumerate(flat):
                    packed[i * bits // 8] |= int(v) << (8 - bits - i * bits % 8)
                out += b"\0" + packed.tobytes()
        return out

    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        data = b"".join(rows(array[y::dy, x::dx]) for y, x, dy, dx in passes if array[y::dy, x::dx].size)
    else:
        data = rows(array)
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(data, 9)) + png_chunk(b"IEND", b"")


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def png_files(files):
    rgb = picture(9, 13)
    grey, alpha = rgb[..., :1], np.tile(np.linspace(0, 255, 13).astype(np.uint8), (9, 1))[..., None]
    files["rgb.png"] = saved(Image.fromarray(rgb), "PNG", optimize=True)
    files["rgba.png"] = saved(Image.fromarray(np.concatenate([rgb, alpha], -1)), "PNG", optimize=True)
    files["grey.png"] = saved(Image.fromarray(grey[..., 0]), "PNG", optimize=True)
    files["grey_alpha.png"] = png(np.concatenate([grey, alpha], -1), 4, 8)
    files["bitmap.png"] = png(grey // 128, 0, 1)
    files["grey_2.png"] = png(grey // 64, 0, 2)
    files["grey_4.png"] = png(grey // 16, 0, 4, interlaced=True)
    files["grey_16.png"] = png(grey.astype(np.uint16) * 250 + 77, 0, 16)
    files["rgb_16.png"] = png(rgb.astype(np.uint16) * 249 + 13, 2, 16, interlaced=True)
    files["rgb_interlaced.png"] = png(rgb, 2, 8, interlaced=True)
    palette = np.random.default_rng(1).integers(0, 256, (16, 3)).astype(np.uint8)
    chunk = png_chunk(b"PLTE", palette.tobytes())
    files["palette_4.png"] = png(grey // 16, 3, 4, extra=chunk)
    files["palette_8_transparent.png"] = png(grey // 16, 3, 8, extra=chunk + png_chunk(b"tRNS", bytes([0, 128, 255])))
    files["palette_1.png"] = png(grey // 128, 3, 1, extra=chunk)
    files["grey_transparent.png"] = png(grey, 0, 8, extra=png_chunk(b"tRNS", struct.pack(">H", int(grey[0, 0, 0]))))
    files["exif_3.png"] = saved(Image.fromarray(rgb), "PNG", optimize=True, exif=exif(3))


def jpeg_files(files):
    import cv2
    image = Image.fromarray(picture(20, 27))
    files["rgb.jpg"] = saved(image, "JPEG", quality=60, optimize=True)
    files["rgb_444.jpg"] = saved(image, "JPEG", quality=60, subsampling=0, optimize=True)
    files["rgb_422.jpg"] = saved(image, "JPEG", quality=60, subsampling=1, optimize=True)
    files["progressive.jpg"] = saved(image, "JPEG", quality=50, progressive=True)
    files["grey.jpg"] = saved(image.convert("L"), "JPEG", quality=60, optimize=True)
    files["cmyk.jpg"] = saved(image.convert("CMYK"), "JPEG", quality=60, optimize=True)
    files["restarts.jpg"] = cv2.imencode(".jpg", np.asarray(image), [cv2.IMWRITE_JPEG_QUALITY, 50, cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    small = image.resize((11, 6))
    for orientation in range(2, 9):
        files[f"exif_{orientation}.jpg"] = saved(small, "JPEG", quality=30, optimize=True, exif=exif(orientation))


def tiff(array, **options):
    import tifffile
    out = io.BytesIO()
    tifffile.imwrite(out, array, metadata=None, software=False, **options)
    return out.getvalue()


def tiff_files(files):
    rgb = picture(9, 13)
    image, grey = Image.fromarray(rgb), rgb[..., 0]
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        files[f"rgb_{compression}.tif"] = saved(image, "TIFF", compression=compression)
    files["jpeg.tif"] = saved(image, "TIFF", compression="jpeg", quality=60)
    files["bitmap.tif"] = saved(Image.fromarray(grey).convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4")
    files["palette.tif"] = saved(image.quantize(16), "TIFF")
    files["cmyk.tif"] = saved(image.convert("CMYK"), "TIFF", compression="tiff_lzw")
    files["rgba.tif"] = tiff(np.concatenate([rgb, 255 - rgb[..., :1]], -1), photometric="rgb", extrasamples=["unassalpha"])
    files["grey_16.tif"] = tiff(grey.astype(np.uint16) * 250 + 3, photometric="minisblack")
    files["white_is_zero.tif"] = tiff(grey, photometric="miniswhite")
    files["rgb_16_big_endian.tif"] = tiff(rgb.astype(np.uint16) * 250 + 9, photometric="rgb", byteorder=">")
    files["planes.tif"] = tiff(np.ascontiguousarray(rgb.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate", rowsperstrip=4)
    files["tiles.tif"] = tiff(picture(20, 27), photometric="rgb", tile=(16, 16), compression="deflate")
    files["predictor.tif"] = tiff(rgb, photometric="rgb", compression="lzw", predictor=2, bigtiff=True) if have_codecs() else \
        saved(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    files["turned.tif"] = saved(image, "TIFF", tiffinfo={274: 6})


def have_codecs():
    try:
        import imagecodecs  # noqa: F401
        return True
    except ImportError:
        return False


def bmp(width, height, bits, data, compression=0, palette=b"", masks=b"", colors=0):
    offset = 14 + 40 + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, colors, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + masks + palette + data


def bmp_files(files):
    rgb = picture(9, 13)
    image = Image.fromarray(rgb)
    files["rgb.bmp"] = saved(image, "BMP")
    files["palette.bmp"] = saved(image.quantize(64), "BMP")
    files["grey.bmp"] = saved(image.convert("L"), "BMP")
    files["bitmap.bmp"] = saved(image.convert("1"), "BMP")
    files["rgb_32.bmp"] = bmp(4, -2, 32, bytes(range(3, 35)))
    files["rgb_15.bmp"] = bmp(5, 2, 16, bytes(range(100, 124)))
    files["rgb_16.bmp"] = bmp(5, 2, 16, bytes(range(30, 54)), 3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    palette = np.random.default_rng(2).integers(0, 256, 64).astype(np.uint8).tobytes()
    runs = bytes([3, 1, 0, 5, 2, 3, 4, 5, 6, 0, 0, 0, 2, 7, 0, 2, 2, 0, 4, 9, 0, 0, 8, 11, 0, 1])
    files["runs_8.bmp"] = bmp(8, 3, 8, runs, 1, palette, colors=16)
    runs = bytes([5, 0x12, 0, 3, 0x34, 0x50, 0, 0, 8, 0x77, 0, 0, 3, 0xAB, 5, 0xCD, 0, 1])
    files["runs_4.bmp"] = bmp(8, 3, 4, runs, 2, palette, colors=16)


def pnm_files(files):
    rgb = picture(5, 7)
    grey = rgb[..., 0]
    text = lambda values: b" ".join(b"%d" % v for v in values.reshape(-1)) + b"\n"  # noqa: E731
    files["ascii.ppm"] = b"P3\n# a comment\n7 5\n255\n" + text(rgb)
    files["binary.ppm"] = b"P6\n7 5 # another\n255\n" + rgb.tobytes()
    files["ascii.pgm"] = b"P2 7 5 100\n" + text(grey.astype(int) * 100 // 255)
    files["binary.pgm"] = b"P5\n7\n5\n255\n" + grey.tobytes()
    files["few.pgm"] = b"P5 7 5 6\n" + (grey // 40).tobytes()
    files["deep.ppm"] = b"P6 7 5 65535\n" + (rgb.astype(np.uint16) * 250 + 99).astype(">u2").tobytes()
    files["ascii.pbm"] = b"P1\n7 5\n" + b"\n".join(b"".join(b"%d" % v for v in row) for row in grey // 128) + b"\n"
    files["binary.pbm"] = b"P4\n7 5\n" + np.packbits(grey // 128, axis=1).tobytes()


def pixels_of(name, data):
    """As our reader is asked for them: turned as EXIF says, 16 bits cut to their upper 8."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    out = {}
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.uint16)
        out["deep:" + name] = deep
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif name.startswith("rgb_16"):
        import cv2
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.dtype == np.uint16:
            out["deep:" + name] = np.ascontiguousarray(deep[..., ::-1])
    if image.mode == "P":
        out["labels:" + name] = np.asarray(image)
    out["rgb:" + name] = np.asarray(image.convert("RGB"))
    return out


def all_files():
    files = {}
    for make in (png_files, jpeg_files, tiff_files, bmp_files, pnm_files):
        make(files)
    return files


def read_files(out):
    tensors = {}
    for name, data in all_files().items():
        tensors["file:" + name] = np.frombuffer(data, np.uint8)
        tensors.update(pixels_of(name, data))
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, os.path.join(out, "files.safetensors"))


def seeds(corpus):
    files = all_files()
    os.makedirs(corpus, exist_ok=True)
    for name in ("palette_8_transparent.png", "rgb_16.png", "exif_3.png", "progressive.jpg", "cmyk.jpg", "exif_6.jpg", "rgb_tiff_lzw.tif",
                 "palette.tif", "planes.tif", "tiles.tif", "jpeg.tif", "runs_4.bmp", "runs_8.bmp", "rgb_16.bmp", "bitmap.bmp", "ascii.ppm",
                 "binary.pbm", "deep.ppm"):
        mode = 3 if "palette" in name or "runs" in name else 8 if "exif" in name else 4 if "16" in name or "deep" in name else 0
        with open(os.path.join(corpus, name.replace(".", "_")), "wb") as f:
            f.write(bytes([mode]) + files[name])


# ---- sizes -----------------------------------------------------------------------------------------------------------------


def resizes(out):
    tensors = {}
    colors, grey = picture(29, 37, 3), picture(17, 11, 4)[..., 0]
    tensors["in:rgb"], tensors["in:grey"] = colors, grey
    for resample in range(6):
        for name, array in (("rgb", colors), ("grey", grey)):
            for width, height in ((16, 12), (23, 41), (37, 10), (50, 29), (1, 1), (3, 90)):
                if name == "rgb" and width * height > 700:
                    continue
                tensors[f"{name}:{resample}:{width}:{height}"] = np.asarray(Image.fromarray(array).resize((width, height), resample))
        part = (3.25, 2.5, 30, 21.75)
        tensors[f"part:{resample}:12:9"] = np.asarray(Image.fromarray(colors).resize((12, 9), resample, box=part))
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, os.path.join(out, "resize.safetensors"))


# ---- processors ------------------------------------------------------------------------------------------------------------


def processor_cases():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return {
        "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 10}},
        "vit_old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 12, "resample": 3, "image_mean": mean, "image_std": std},
        "vit_fast_plain": {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 9, "width": 12}, "do_normalize": False,
                           "resample": 1},
        "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 14}, "crop_size": {"height": 11, "width": 13}},
        "clip_small": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 9}, "crop_size": {"height": 12, "width": 16},
                       "do_rescale": True, "rescale_factor": 0.0078125},
        "deit": {"image_processor_type": "DeiTImageProcessor", "size": {"height": 16, "width": 16}, "crop_size": {"height": 11, "width": 11}},
        "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 12}, "crop_pct": 0.8, "resample": 2},
        "convnext_old": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 13, "crop_pct": 0.875, "image_mean": mean,
                         "image_std": std, "resample": 3},
        "mobilenet": {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 13}, "crop_size": {"height": 12, "width": 12}},
        "no_resize": {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": {"height": 10, "width": 12}},
    }


def processors(out):
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
    from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    classes = {"ViT": ViTImageProcessorPil, "CLIP": CLIPImageProcessorPil, "DeiT": DeiTImageProcessorPil, "ConvNext": ConvNextImageProcessorPil,
               "MobileNetV2": MobileNetV2ImageProcessorPil, "Bit": BitImageProcessorPil}
    tensors = {"in": picture(21, 30, 5), "in_upright": picture(26, 15, 6)}
    for name, config in processor_cases().items():
        kind = config.get("image_processor_type", config.get("feature_extractor_type"))
        kind = kind.replace("ImageProcessorFast", "").replace("ImageProcessor", "").replace("FeatureExtractor", "")
        processor = classes[kind].from_dict({k: v for k, v in config.items() if not k.endswith("_type")})
        tensors["json:" + name] = np.frombuffer(json.dumps(config).encode(), np.uint8)
        for image in ("in", "in_upright"):
            tensors[f"{image}:{name}"] = np.asarray(processor(Image.fromarray(tensors[image]), return_tensors="np")["pixel_values"][0], np.float32)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, os.path.join(out, "processors.safetensors"))


# ---- colours and places ----------------------------------------------------------------------------------------------------


def turn_hue(image, turn):
    """torchvision.transforms.functional.adjust_hue of a PIL image."""
    h, s, v = image.convert("HSV").split()
    moved = (np.asarray(h).astype(np.int64) + np.uint8(int(turn * 255) % 256)) % 256
    return Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), s, v)).convert("RGB")


def adjustments(out):
    from PIL import ImageEnhance
    array = picture(17, 22, 7)
    array[3:7, 4:9] = [[200, 200, 200]]
    array[8:10, 4:9] = [[255, 0, 10]]
    image = Image.fromarray(array)
    tensors = {"in": array}
    affine = lambda m: image.transform(image.size, Image.Transform.AFFINE, m, Image.Resampling.NEAREST)  # noqa: E731
    for factor in (0.0, 0.3, 1.0, 1.9):
        for name, kind in (("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color"), ("sharpness", "Sharpness")):
            tensors[f"{name}:{factor}"] = getattr(ImageEnhance, kind)(image).enhance(factor)
    for turn in (-0.5, -0.1, 0.25, 0.4):
        tensors[f"hue:{turn}"] = turn_hue(image, turn)
    for bits in (2, 5, 8):
        tensors[f"posterize:{bits}"] = ImageOps.posterize(image, bits)
    tensors["solarize:100"] = ImageOps.solarize(image, 100)
    tensors["autocontrast:0"] = ImageOps.autocontrast(image)
    tensors["equalize:0"] = ImageOps.equalize(image)
    tensors["across:0"] = ImageOps.mirror(image)
    tensors["down:0"] = ImageOps.flip(image)
    tensors["shear_x:0.27"] = affine((1, 0.27, 0, 0, 1, 0))
    tensors["shear_y:-0.2"] = affine((1, 0, 0, -0.2, 1, 0))
    tensors["translate_x:5"] = affine((1, 0, -5, 0, 1, 0))
    tensors["translate_y:-4"] = affine((1, 0, 0, 0, 1, 4))
    for degrees in (13.5, -27):
        tensors[f"rotate:{degrees}"] = image.rotate(degrees)
    save_file({k: np.ascontiguousarray(np.asarray(v)) for k, v in tensors.items()}, os.path.join(out, "adjust.safetensors"))


# ---- corruptions -----------------------------------------------------------------------------------------------------------


def disk(radius, sigma):
    import cv2
    reach, side = (8, 3) if radius <= 8 else (int(radius), 5)
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    points = (x * x + y * y <= radius * radius).astype(np.float64)
    return cv2.GaussianBlur(points / points.sum(), (side, side), sigma)


def zoomed(x, factor):
    from scipy.ndimage import zoom
    size = x.shape[0]
    part = int(np.ceil(size / factor))
    start = (size - part) // 2
    large = zoom(x[start:start + part, start:start + part], (factor, factor, 1), order=1)
    start = (large.shape[0] - size) // 2
    return large[start:start + size, start:start + size]


# what is drawn from no random numbers: name -> (function of a float image and its constants, constants of 224 pixels, of 32)
def corruption_cases():
    import cv2
    import skimage.color
    import skimage.filters

    def hsv(x, change):
        h = skimage.color.rgb2hsv(x)
        change(h)
        return skimage.color.hsv2rgb(h)

    def brightness(x, c):
        return hsv(x, lambda h: h.__setitem__((..., 2), np.clip(h[..., 2] + c, 0, 1)))

    def saturate(x, c):
        return hsv(x, lambda h: h.__setitem__((..., 1), np.clip(h[..., 1] * c[0] + c[1], 0, 1)))

    def contrast(x, c):
        mean = x.mean((0, 1), keepdims=True)
        return (x - mean) * c + mean

    def zoom_blur(x, c):
        factors = np.arange(1, *c)
        return (x + sum(zoomed(x, f) for f in factors)) / (len(factors) + 1)

    def pixelate(x, c):
        image = Image.fromarray(np.round(x * 255).astype(np.uint8))
        small = image.resize((int(image.width * c), int(image.height * c)), Image.Resampling.BOX)
        return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255.0

    def jpeg(x, c):
        return np.asarray(Image.open(io.BytesIO(saved(Image.fromarray(np.round(x * 255).astype(np.uint8)), "JPEG", quality=c)))) / 255.0

    return {
        "gaussian_blur": (lambda x, c: skimage.filters.gaussian(x, sigma=c, channel_axis=-1), [1, 2, 3, 4, 6], [.4, .6, .7, .8, 1]),
        "defocus_blur": (lambda x, c: cv2.filter2D(x, -1, disk(*c)), [(3, .1), (4, .5), (6, .5), (8, .5), (10, .5)],
                         [(.3, .4), (.4, .5), (.5, .6), (1, .2), (1.5, .1)]),
        "zoom_blur": (zoom_blur, [(1.11, .01), (1.16, .01), (1.21, .02), (1.26, .02), (1.31, .03)],
                      [(1.06, .01), (1.11, .01), (1.16, .01), (1.21, .01), (1.26, .01)]),
        "brightness": (brightness, [.1, .2, .3, .4, .5], [.05, .1, .15, .2, .3]),
        "contrast": (contrast, [.4, .3, .2, .1, .05], [.75, .5, .4, .3, .15]),
        "saturate": (saturate, [(.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2)], [(.3, 0), (.1, 0), (1.5, 0), (2, .1), (2.5, .2)]),
        "pixelate": (pixelate, [.6, .5, .4, .3, .25], [.95, .9, .85, .75, .65]),
        "jpeg_compression": (jpeg, [25, 18, 15, 10, 7], [80, 65, 58, 50, 40]),
    }


def corruptions(out):
    """Of every 61st value: (name:size:severity); and mean and PSNR of all of them."""
    tensors = {"in:66": picture(66, 66, 8), "in:32": picture(32, 32, 9)}
    for name, (function, large, small) in corruption_cases().items():
        for size, constants in (("66", large), ("32", small)):
            x = tensors["in:" + size] / 255.0
            for severity, c in enumerate(constants, 1):
                y = (np.clip(function(x, c), 0, 1) * 255).astype(np.uint8)
                error = np.mean((y / 255.0 - x) ** 2)
                tensors[f"{name}:{size}:{severity}"] = y.reshape(-1)[::61]
                tensors[f"sums:{name}:{size}:{severity}"] = np.array([y.mean(), -10 * np.log10(error)], np.float64)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, os.path.join(out, "corruptions.safetensors"))


PARTS = {"files": read_files, "resize": resizes, "processors": processors, "adjust": adjustments, "corruptions": corruptions}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "reference", "images"))
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--corpus")
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    for part in arguments.only:
        PARTS[part](arguments.out)
    if arguments.corpus:
        seeds(arguments.corpus)


if __name__ == "__main__":
    main()

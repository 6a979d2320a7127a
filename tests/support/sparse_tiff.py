"""A TIFF as GDAL's SPARSE_OK=TRUE writes it: the offset of a part that holds no data is 0."""

import io
import struct

from PIL import Image, TiffImagePlugin


def sparse_tiff(image: Image.Image) -> bytes:
    """The image in one strip that was never written."""
    encoded = io.BytesIO()
    image.save(encoded, "TIFF")
    data = bytearray(encoded.getvalue())
    (directory,) = struct.unpack_from("<L", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry)[0] in (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS):
            struct.pack_into("<L", data, entry + 8, 0)
    return bytes(data)

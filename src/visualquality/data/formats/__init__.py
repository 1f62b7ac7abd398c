"""What image files hold, kind by kind, where Pillow alone would misread it, or not notice that it is damaged.

opening     a file -> Pillow's image with its header read; what is damaged, and what is only not supported
endings     streams that end too early, or fail their checksums, and are decoded without a word
boxes       AVIF and HEIF: the crop box, the stated colours, an AV1 stream that is cut off
tiff        samples of TIFF files by their header: any number of bits, signed, floating point, white at 0
sixteen     colour PNG and PPM of 16 bits, of which Pillow keeps 8
libtiff     its messages, which would go to the user's terminal
depth       samples of any depth -> 8 bits
profiles    ICC profiles -> sRGB
rgb         what was read -> RGB on white
"""

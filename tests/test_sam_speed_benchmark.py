"""What the table of the encoders' speed says."""

from benchmarks import sam_speed


def test_ratios_are_of_images_a_second_and_of_macs():
    def measured(seconds, gmacs):
        return {"batch_size": 2, "image_size": 512, "parameters": 4_000_000, "gmacs": gmacs, "seconds": seconds}

    header, rows = sam_speed.table_of({
        "SAM-B": measured([8.0, 9.0, 10.0], 486.0),
        "SAM-H": measured([90.0], 2981.0),
        "EfficientViT-SAM-L0": measured([1.0, 0.5, 2.0], 34.8),
    })  # fmt: skip
    of = dict(zip(header[:-1], rows[2], strict=False))
    assert of["images/s"] == "2 (1 to 4)" and of["times SAM-B"] == "9.0 (14.0)"
    assert (of["GFLOP/s"], rows[2][-1], rows[0][-1]) == ("139", "69.3", "")
    assert rows[2][header.index("times SAM-H")] == "90.0 (85.7)"
    assert set(sam_speed.ENCODERS) == {*(f"SAM-{size}" for size in "BLH"), *(
        f"EfficientViT-SAM-{size}" for size in ("L0", "L1", "L2", "XL0", "XL1")
    )}  # fmt: skip

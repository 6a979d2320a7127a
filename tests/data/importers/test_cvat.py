"""CVAT's XML by hand, after the documentation of "CVAT for images 1.1" and "CVAT for video 1.1"."""

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, canvas, imported, mask, masks, photo, refusal

META = """<meta><task><id>4</id><name>yard</name><size>3</size><mode>{mode}</mode><labels>
<label><name>car</name><color>#c06060</color><type>any</type><attributes></attributes></label>
<label><name>tree</name><color>#2080c0</color><type>any</type><attributes></attributes></label>
</labels><original_size><width>40</width><height>30</height></original_size></task><dumped>2026-11-02</dumped></meta>"""
CAR = (
    '<polygon label="car" source="manual" occluded="0" points="10.00,6.00;20.00,6.00;20.00,15.00;10.00,15.00" '
    'z_order="0"/>'
)
CAR_PIXELS = (slice(6, 15), slice(10, 20))


def cvat(root, *shapes, name="a.jpg", more="", mode="annotation"):
    photo(root / "images" / name)
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image>'
    meta = META.format(mode=mode)
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    (root / "annotations.xml").write_text(f"{head}{meta}\n{image}\n{more}</annotations>")
    return root


def drawn(root, *options):
    return mask(imported(root, *options)[0], "background", "car", "tree")


def test_a_polygon_and_the_colors_of_the_labels(tmp_path):
    data, report = imported(cvat(tmp_path / "x", CAR))
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert data.info.palette == [(0, 0, 0), (0xC0, 0x60, 0x60), (0x20, 0x80, 0xC0)]
    assert report["overlap"] == "z-order"


def test_a_file_named_after_its_split_as_datumaro_writes_it(tmp_path):
    root = cvat(tmp_path / "x", CAR)
    (root / "annotations.xml").rename(root / "val.xml")
    data, _ = imported(root)
    assert list(masks(data)) == ["val/a"]


def test_tracks_over_photos_with_names_of_their_own(tmp_path):
    shape = CAR.replace("<polygon", '<polygon frame="1" outside="0"')
    root = cvat(tmp_path / "x", more=f'<track id="0" label="car">{shape}</track>')
    line = refusal(root)
    assert "no photo is called frame_000001; name the folder of the frames with --images, or export" in line


def test_the_higher_z_order_is_seen(tmp_path):
    over = CAR.replace("car", "tree").replace('z_order="0"', 'z_order="-1"')
    root = cvat(tmp_path / "x", CAR, over)
    assert drawn(root)[7, 12] == 1
    assert drawn(root, "--overlap", "last")[7, 12] == 2


def test_boxes_and_their_rotation(tmp_path):
    box = '<box label="{}" source="manual" occluded="0" xtl="{}" ytl="{}" xbr="{}" ybr="{}"{} z_order="0"/>'
    shapes = [box.format("car", 10, 6, 20, 15, ""), box.format("tree", 20, 18, 36, 26, ' rotation="90.00"')]
    expected = canvas()
    expected[CAR_PIXELS] = 1
    expected[14:30, 24:32] = 2  # 16x8 around (28, 22), upright
    assert np.array_equal(drawn(cvat(tmp_path / "x", *shapes)), expected)


def test_an_ellipse(tmp_path):
    shape = '<ellipse label="car" cx="20.00" cy="15.00" rx="8.00" ry="3.00" rotation="90.00" z_order="0"/>'
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = ((columns - 20) / 3) ** 2 + ((rows - 15) / 8) ** 2 <= 1
    assert np.array_equal(drawn(cvat(tmp_path / "x", shape)) == 1, expected)


def test_a_mask_lies_in_its_box(tmp_path):
    pixels = np.random.default_rng(3).random((5, 7)) > 0.5
    counts, value = [0], False
    for pixel in pixels.ravel():  # CVAT's run lengths: along the rows, zeros first
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    rle = ", ".join(map(str, counts))
    shape = f'<mask label="tree" source="semi-auto" rle="{rle}" left="4" top="9" width="7" height="5" z_order="0"/>'
    expected = canvas()
    expected[9:14, 4:11][pixels] = 2
    assert np.array_equal(drawn(cvat(tmp_path / "x", shape)), expected)


def test_what_covers_no_area_is_counted(tmp_path):
    others = '<polyline label="car" points="1,1;2,2"/><points label="car" points="1,1"/><tag label="tree"/>'
    _, report = imported(cvat(tmp_path / "x", CAR, others))
    assert report["objects"]["no_area"] == {"polyline": 1, "points": 1, "tag": 1}


def test_subsets_sub_folders_and_images_without_a_shape(tmp_path):
    root = tmp_path / "x"
    more = ""
    for index, (folder, subset) in enumerate(
        (("p", "Train"), ("q", "Validation"), ("r", "Odd one"), ("s", "unlabeled"))
    ):
        photo(root / "images" / folder / "1.jpg")
        more += f'<image id="{index + 1}" name="{folder}/1.jpg" subset="{subset}" width="40" height="30">{CAR}</image>'
    cvat(root, more=more)
    data, report = imported(root)
    assert list(masks(data)) == ["Odd_one/1", "train/p_1", "train/s_1", "val/1"]
    assert [sample.stem for sample in data.samples("unlabeled")] == ["a"]
    assert report["photos"]["read"] == 5


def test_tracks_give_a_mask_per_frame(tmp_path):
    root = tmp_path / "x"
    shape = '<{0} frame="{1}" keyframe="1" outside="{2}" occluded="0" {3} z_order="0"></{0}>'
    points = 'points="10.00,6.00;20.00,6.00;20.00,15.00;10.00,15.00"'
    track = "".join(shape.format("polygon", frame, outside, points) for frame, outside in ((0, 0), (1, 0), (2, 1)))
    box = shape.format("box", 1, 0, 'xtl="0" ytl="0" xbr="4" ybr="4"')
    for frame in range(3):
        photo(root / "images" / f"frame_{frame:06d}.PNG")
    (root / "annotations.xml").write_text(
        f"<annotations><version>1.1</version>{META.format(mode='interpolation')}"
        f'<track id="0" label="car" source="manual">{track}</track>'
        f'<track id="1" label="tree">{box}</track></annotations>'
    )
    data, _ = imported(root)
    assert {name: [int((it == value).sum()) for value in (1, 2)] for name, it in masks(data).items()} == {
        "train/frame_000000": [90, 0],
        "train/frame_000001": [90, 16],
    }
    assert [sample.stem for sample in data.samples("unlabeled")] == ["frame_000002"]


TASK = (
    "<task><id>{0}</id><mode>interpolation</mode><subset>{1}</subset><start_frame>0</start_frame>"
    "<stop_frame>5</stop_frame></task>"
)
TRACK = (
    '<track id="0" label="{2}" task_id="{0}" subset="{1}"><polygon frame="{3}" outside="0" {4} z_order="0"/></track>'
)


def project(root, *tracks):
    """A project as CVAT 2 writes it to "CVAT for video 1.1"; (task, subset, label, frame) of each track."""
    labels = META[META.index("<labels>") : META.index("<original_size>")]
    points = CAR[CAR.index("points=") : CAR.index(" z_order")]
    tasks = "".join(TASK.format(task, subset) for task, subset in dict.fromkeys(track[:2] for track in tracks))
    meta = f"<meta><project><id>1</id>{labels}<tasks>{tasks}</tasks></project></meta>"
    shown = "".join(TRACK.format(*track, points) for track in tracks)
    root.mkdir()
    (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{meta}{shown}</annotations>")
    return root


def test_a_project_of_several_videos(tmp_path):
    root = project(tmp_path / "x", (8, "Train", "car", 0), (9, "Validation", "tree", 0))
    for seed, subset in enumerate(("Train", "Validation")):
        photo(root / "images" / subset / "frame_000000.png", seed=seed)
    data, _ = imported(root)
    assert {name: int(classes.max()) for name, classes in masks(data).items()} == {
        "train/frame_000000": 1,
        "val/frame_000000": 2,
    }
    original = (root / "images" / "Validation" / "frame_000000.png").read_bytes()
    assert data.samples("val")[0].image.read_bytes() == original


@pytest.mark.parametrize("frames", [(0, 0), (0, 3)])
@pytest.mark.parametrize(("subsets", "folder"), [(("Train", "Train"), "Train"), (("Train", "Odd one"), ".")])
def test_a_photo_that_may_be_of_two_videos(subsets, folder, frames, tmp_path):
    root = project(tmp_path / "x", (8, subsets[0], "car", frames[0]), (9, subsets[1], "tree", frames[1]))
    for frame in frames:
        photo(root / "images" / folder / f"frame_{frame:06d}.png")
    line = refusal(root)
    assert "annotations.xml: the tasks 8 and 9 both have a frame 0, and " in line
    assert "export the tasks one by one, or put each into a subset of its own" in line


def test_a_frame_of_another_video_is_not_taken(tmp_path):
    root = project(tmp_path / "x", (8, "Train", "car", 0), (9, "Validation", "tree", 1))
    for frame in range(2):
        photo(root / "images" / "Train" / f"frame_{frame:06d}.png")
    assert "1 of 2 photos are missing (frame_000001)" in refusal(root)


def test_several_exports_in_one_folder(tmp_path):
    for folder in ("monday", "tuesday"):
        cvat(tmp_path / "x" / folder, CAR)
    data, _ = imported(tmp_path / "x")
    assert list(masks(data)) == ["train/monday_images_a", "train/tuesday_images_a"]


def test_a_folder_for_each_split(tmp_path):
    shape = CAR.replace("<polygon", '<polygon frame="0" outside="0"')
    for folder in ("train", "val"):
        track = f'<track id="0" label="car">{shape}</track>'
        cvat(tmp_path / "x" / folder, CAR, more=track)
        photo(tmp_path / "x" / folder / "images" / "frame_000000.jpg")
    names = ["train/a", "train/frame_000000", "val/a", "val/frame_000000"]
    assert list(masks(imported(tmp_path / "x")[0])) == names


def test_turned_photos_are_drawn_upright(tmp_path):
    root = cvat(tmp_path / "x", CAR)
    photo(root / "images" / "a.jpg", HEIGHT, WIDTH, turn=6)
    assert (drawn(root)[CAR_PIXELS] == 1).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (CAR.replace("10.00,6.00", "10.00"), "annotations.xml: image 'a.jpg': polygon 0: points must be x,y;x,y;..."),
        (CAR.replace("car", "lorry"), "polygon 0: its label 'lorry' is not among the labels of the task"),
        (CAR.replace("10.00,6.00", "nan,6.00"), "polygon 0: a coordinate is not a number or beyond"),
        ('<box label="car" xtl="1" ytl="x" xbr="3" ybr="4"/>', "box 0: ytl must be a number, not 'x'"),
        (
            '<mask label="car" rle="3, 4" left="0" top="0" width="2" height="2"/>',
            "rle covers 7 pixels; its box has 2x2",
        ),
        ('<mask label="car" rle="a" left="0" top="0" width="2" height="2"/>', "rle must be whole numbers"),
        ('<spline label="car"/>', "spline 0: unknown kind of shape"),
        ("<polygon", "annotations.xml:8:59: not valid XML"),
    ],
)
def test_malformed_files(shape, message, tmp_path):
    assert message in refusal(cvat(tmp_path / "x", shape))


COLORS = {"background": (0, 0, 0), "dog": (176, 112, 32), "cat": (48, 112, 32)}


@pytest.fixture
def segmentation_masks(tmp_path):
    root = tmp_path / "x"
    values = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH))
    photo(root / "JPEGImages" / "frame_000000.jpg")
    photo(root / "JPEGImages" / "frame_000001.jpg")
    for folder in ("SegmentationClass", "SegmentationObject"):
        (root / folder).mkdir()
        colors = np.array(list(COLORS.values()), np.uint8)[values]
        Image.fromarray(colors).save(root / folder / "frame_000000.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("frame_000000\n")
    lines = [f"{name}:{','.join(map(str, color))}::\n" for name, color in COLORS.items()]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(lines))
    return root, values


def test_segmentation_masks(segmentation_masks):
    root, values = segmentation_masks
    data, report = imported(root)
    assert data.info.classes == list(COLORS)
    assert data.info.palette == list(COLORS.values())
    assert np.array_equal(masks(data)["train/frame_000000"], values)
    assert report["photos"]["written"] == {"train": 1, "unlabeled": 1}
    merged, _ = imported(root, "--map", "cat=animal", "--map", "dog=animal", "--map", "background=ignore")
    assert merged.info.classes == ["animal"]
    assert np.array_equal(masks(merged)["train/frame_000000"], np.where(values, 0, 255))


def test_a_color_that_the_label_map_lacks(segmentation_masks):
    root, _ = segmentation_masks
    (root / "labelmap.txt").write_text("dog:176,112,32::\ncat:48,112,32::\n")
    assert "frame_000000.png: color #000000 is not in the color_map" in refusal(root)
    (root / "labelmap.txt").write_text("dog\n")
    assert "labelmap.txt:1: expected `name:red,green,blue:parts:actions`" in refusal(root)

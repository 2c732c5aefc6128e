import numpy as np

from qiml.visualization import canvas


def test_lines_cover_the_pixels_between_continuous_coordinates():
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    segments = np.array([[(5.5, 4.5), (30.5, 4.5)], [(10.5, 8.5), (10.5, 15.5)]])
    canvas.draw_segments(image, segments, (255, 0, 0))
    solid = image[..., 0] > 200
    assert solid[4, 6:30].all() and solid[9:15, 10].all() and solid.sum() <= 26 + 8
    canvas.draw_segments(image, np.empty((0, 2, 2)), canvas.WHITE)


def test_ends_far_outside_the_image_do_not_bend_a_line():
    image = np.zeros((200, 600, 3), dtype=np.uint8)
    far, near = image.copy(), image.copy()
    canvas.draw_segments(far, np.array([[(300.5, 100.5), (1e6, 2e5)]]), canvas.WHITE)
    end = 300.5 + np.array([1, (2e5 - 100.5) / (1e6 - 300.5)]) * 400 - (0, 200)
    canvas.draw_segments(near, np.array([[(300.5, 100.5), end]]), canvas.WHITE)
    assert np.abs(far.astype(int) - near).max() < 40


def test_quads_are_translucent_where_they_are_and_change_nothing_elsewhere():
    image = np.full((20, 40, 3), 100, dtype=np.uint8)
    square = np.array([(4.0, 4), (14, 4), (14, 14), (4, 14)])
    quads = np.stack([square, square + np.array([5, 0])])
    canvas.fill_quads(image, quads, [(200, 0, 0), (0, 200, 0)], opacity=0.5)
    assert image[8, 6].tolist() == [150, 50, 50]
    assert image[8, 12].tolist() == image[8, 16].tolist() == [50, 150, 50], "the last is seen"
    assert (image[:, 22:] == 100).all()
    canvas.fill_quads(image, np.empty((0, 4, 2)), [], opacity=0.5)

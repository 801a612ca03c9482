/* From a camera's picture to an engine's input: resize, letterbox or crop, color, normalization, layout, in one pass.
 * C11, C++ and CUDA read the same text, so the GPU (edgec_preprocess.cu) and the CPU compute the same numbers, and both
 * what edgec's own preprocessing gives: Pillow's bilinear filter with antialiasing, in its fixed-point arithmetic. Where
 * Pillow filters columns before rows, for its own speed, a pixel may differ by one of 255.
 *
 *   edgec_placed job;
 *   if (edgec_place(&job, &NAME_preprocess, EDGEC_NV12, width, height, stride)) ...  the picture is too small to crop
 *   edgec_preprocess(&job, picture, input);
 *
 * NAME_preprocess is the recipe in the bundle's NAME_preprocess.h. A picture has 8 bits per channel; rows are `stride`
 * bytes apart. NV12: the chroma rows follow after `height` rows. YUV is BT.601, limited range.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EDGEC_PREPROCESS_H
#define EDGEC_PREPROCESS_H

#ifdef __CUDACC__
#define EDGEC_BOTH static __host__ __device__ inline
#elif defined(__CUDACC_RTC__)
#define EDGEC_BOTH static __device__ inline
#else
#define EDGEC_BOTH static inline
#endif

enum { EDGEC_RGB_PICTURE, EDGEC_BGR_PICTURE, EDGEC_GRAY_PICTURE, EDGEC_NV12, EDGEC_YUYV };
enum { EDGEC_RESIZE_NONE, EDGEC_RESIZE_STRETCH, EDGEC_RESIZE_SHORT, EDGEC_RESIZE_LETTERBOX };
enum { EDGEC_COLOR_RGB, EDGEC_COLOR_BGR, EDGEC_COLOR_GRAY };

/* What the model wants, as edgec.data.preprocess.Preprocess states it. size and crop: height, width; 0 if not given. */
typedef struct {
  int resize, size[2], crop[2], corner, color, planar, height, width;
  float fill, scale, mean[3], std[3];
} edgec_recipe;

/* A recipe for pictures of one size: the resized picture is inner[0] x inner[1] and starts at row top, column left. */
typedef struct {
  edgec_recipe recipe;
  int format, height, width, stride, inner[2], top, left;
} edgec_placed;

EDGEC_BOTH int edgec_nearest(double x) { /* to the nearest whole number, halves to even ones */
  int whole = (int)x;
  double rest = x - whole;
  return whole + (rest > 0.5 || (rest == 0.5 && whole % 2));
}

EDGEC_BOTH int edgec_at_least_one(int x) { return x < 1 ? 1 : x; }

/* 0, or 1 if the resized picture is smaller than the crop, or than an input that is not resized. */
EDGEC_BOTH int edgec_place(edgec_placed *job, const edgec_recipe *r, int format, int width, int height, int stride) {
  int box[2];
  job->recipe = *r;
  job->format = format, job->height = height, job->width = width, job->stride = stride;
  job->inner[0] = height, job->inner[1] = width, job->top = 0, job->left = 0;
  if (r->resize == EDGEC_RESIZE_STRETCH) {
    job->inner[0] = r->size[0], job->inner[1] = r->size[1];
  } else if (r->resize == EDGEC_RESIZE_SHORT) {
    const int side = height < width ? height : width;
    job->inner[0] = edgec_at_least_one(edgec_nearest((double)height * r->size[0] / side));
    job->inner[1] = edgec_at_least_one(edgec_nearest((double)width * r->size[0] / side));
  } else if (r->resize == EDGEC_RESIZE_LETTERBOX) {
    const double up = (double)r->size[0] / height, aside = (double)r->size[1] / width, ratio = up < aside ? up : aside;
    job->inner[0] = edgec_at_least_one((int)(height * ratio));
    job->inner[1] = edgec_at_least_one((int)(width * ratio));
    if (!r->corner) job->top = (r->size[0] - job->inner[0]) / 2, job->left = (r->size[1] - job->inner[1]) / 2;
  }
  box[0] = r->resize == EDGEC_RESIZE_LETTERBOX ? r->size[0] : job->inner[0];
  box[1] = r->resize == EDGEC_RESIZE_LETTERBOX ? r->size[1] : job->inner[1];
  if (r->crop[0]) {
    if (box[0] < r->crop[0] || box[1] < r->crop[1]) return 1;
    job->top -= (box[0] - r->crop[0]) / 2, job->left -= (box[1] - r->crop[1]) / 2;
    box[0] = r->crop[0], box[1] = r->crop[1];
  }
  return box[0] != r->height || box[1] != r->width;
}

EDGEC_BOTH int edgec_byte(int x) { return x < 0 ? 0 : x > 255 ? 255 : x; }

/* Channel c (0 red, 1 green, 2 blue) of a pixel of the picture. */
EDGEC_BOTH int edgec_channel(const edgec_placed *job, const unsigned char *picture, int y, int x, int c) {
  const unsigned char *row = picture + (long)y * job->stride;
  int luma, u, v;
  if (job->format == EDGEC_RGB_PICTURE) return row[3 * x + c];
  if (job->format == EDGEC_BGR_PICTURE) return row[3 * x + 2 - c];
  if (job->format == EDGEC_GRAY_PICTURE) return row[x];
  if (job->format == EDGEC_NV12) {
    const unsigned char *chroma = picture + (long)(job->height + y / 2) * job->stride + x / 2 * 2;
    luma = row[x], u = chroma[0], v = chroma[1];
  } else {
    luma = row[2 * x], u = row[x / 2 * 4 + 1], v = row[x / 2 * 4 + 3];
  }
  luma = 298 * (luma - 16), u -= 128, v -= 128; /* BT.601 in 8 fractional bits */
  return edgec_byte((luma + (c == 0 ? 409 * v : c == 1 ? -100 * u - 208 * v : 516 * u) + 128) >> 8);
}

/* Channel c of the model's color: with grey, the luminance that Pillow computes. */
EDGEC_BOTH int edgec_sample(const edgec_placed *job, const unsigned char *picture, int y, int x, int c) {
  if (job->recipe.color == EDGEC_COLOR_GRAY && job->format != EDGEC_GRAY_PICTURE)
    return (19595 * edgec_channel(job, picture, y, x, 0) + 38470 * edgec_channel(job, picture, y, x, 1) +
            7471 * edgec_channel(job, picture, y, x, 2) + 32768) >> 16;
  return edgec_channel(job, picture, y, x, job->recipe.color == EDGEC_COLOR_BGR ? 2 - c : c);
}

/* The window of the triangle filter for position `at` of an axis: first pixel, number of pixels, and their sum. */
typedef struct {
  double centre, support, sum;
  int first, count;
} edgec_window;

EDGEC_BOTH double edgec_triangle(const edgec_window *w, int i) {
  double distance = (w->first + i - w->centre + 0.5) / w->support;
  if (distance < 0) distance = -distance;
  return distance < 1 ? 1 - distance : 0;
}

EDGEC_BOTH edgec_window edgec_open(int size, int resized, int at) {
  edgec_window w;
  const double scale = (double)size / resized;
  int last, i;
  w.support = scale < 1 ? 1 : scale;
  w.centre = (at + 0.5) * scale;
  w.first = (int)(w.centre - w.support + 0.5);
  if (w.first < 0) w.first = 0;
  last = (int)(w.centre + w.support + 0.5);
  if (last > size) last = size;
  w.count = last - w.first;
  w.sum = 0;
  for (i = 0; i < w.count; ++i) w.sum += edgec_triangle(&w, i);
  return w;
}

EDGEC_BOTH int edgec_weight(const edgec_window *w, int i) { /* 22 fractional bits, as in Pillow */
  return (int)(0.5 + edgec_triangle(w, i) / w->sum * (1 << 22));
}

/* Channel c at (y, x) of the input, normalized. */
EDGEC_BOTH float edgec_input(const edgec_placed *job, const unsigned char *picture, int c, int y, int x) {
  const edgec_recipe *r = &job->recipe;
  float value;
  y -= job->top, x -= job->left;
  if (y < 0 || y >= job->inner[0] || x < 0 || x >= job->inner[1]) {
    value = (float)edgec_byte(edgec_nearest(r->fill));
  } else if (job->inner[0] == job->height && job->inner[1] == job->width) {
    value = (float)edgec_sample(job, picture, y, x, c);
  } else { /* rows first, rounded to bytes, then columns: Pillow's usual order */
    const edgec_window across = edgec_open(job->width, job->inner[1], x);
    const edgec_window down = edgec_open(job->height, job->inner[0], y);
    int total = 1 << 21, i, k;
    for (i = 0; i < down.count; ++i) {
      int sum = 1 << 21;
      for (k = 0; k < across.count; ++k)
        sum += edgec_sample(job, picture, down.first + i, across.first + k, c) * edgec_weight(&across, k);
      total += edgec_byte(sum >> 22) * edgec_weight(&down, i);
    }
    value = (float)edgec_byte(total >> 22);
  }
  value = value * r->scale;
  value = value - r->mean[c];
  return value / r->std[c];
}

EDGEC_BOTH int edgec_channels(const edgec_recipe *r) { return r->color == EDGEC_COLOR_GRAY ? 1 : 3; }

EDGEC_BOTH long edgec_index(const edgec_recipe *r, int c, int y, int x) { /* where (c, y, x) lies in the input */
  return r->planar ? ((long)c * r->height + y) * r->width + x : ((long)y * r->width + x) * edgec_channels(r) + c;
}

#if !defined(__CUDACC_RTC__)
/* The whole input, in float32. */
static inline void edgec_preprocess(const edgec_placed *job, const unsigned char *picture, float *input) {
  int c, y, x;
  for (c = 0; c < edgec_channels(&job->recipe); ++c)
    for (y = 0; y < job->recipe.height; ++y)
      for (x = 0; x < job->recipe.width; ++x)
        input[edgec_index(&job->recipe, c, y, x)] = edgec_input(job, picture, c, y, x);
}
#endif

#endif

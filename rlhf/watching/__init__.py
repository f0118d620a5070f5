# SPDX-License-Identifier: Apache-2.0
"""What a run tells of itself, and what that says.

  workdir    the stage's directory: metrics, samples, warnings, results
  lines      files of JSON lines, written by a thread
  tracking   TensorBoard, Weights & Biases
  display    the terminal
  alarms     rules over PPO's metrics
  diagnosis  a report on a step that is not finite
"""

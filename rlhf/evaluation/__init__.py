# SPDX-License-Identifier: Apache-2.0
"""What the trained models are like: measurements, reports, figures."""

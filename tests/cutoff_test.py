from diffstride.analysis.cutoff import cutoff_frequency


def test_cutoff_frequencies_of_table_2():
    # 10 ms hops: a stride of two keeps 25 Hz; 64 mels: 0.25 cycles per mel.
    assert cutoff_frequency(2.0, sampling_rate=100) == 25.0
    assert cutoff_frequency(2.0) == 0.25
    # Music (instrument): a stride of 2.12 on 64 mels keeps 15 of 64.
    assert cutoff_frequency(2.12, size=64) == 15 / 64

package readme

import (
	"net/http/httptest"
	"testing"

	"github.com/PumpkinSeed/locker"
	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
)

// collector exports the figures of a client to Prometheus.
type collector struct{ client locker.Client }

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.client.Stats()
	for kind, values := range map[prometheus.ValueType]map[string]float64{
		prometheus.GaugeValue: {
			"locker_held": float64(s.Held), "locker_waiting": float64(s.Waiting), "locker_queued": float64(s.Queued),
			"locker_last_renewal_timestamp_seconds": float64(s.LastRenewal.Unix()),
			"locker_renewal_delay_seconds":          s.RenewalDelay.Seconds(),
		},
		prometheus.CounterValue: {
			"locker_acquired_total": float64(s.Acquired), "locker_refused_total": float64(s.Refused),
			"locker_lost_total": float64(s.LostLease + s.LostKey), "locker_wait_seconds_total": s.WaitTime.Seconds(),
			"locker_requests_total": float64(s.Requests), "locker_hedges_total": float64(s.Hedges),
			"locker_streams_moved_total": float64(s.StreamsMoved),
		},
	} {
		for name, value := range values {
			ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, name, nil, nil), kind, value)
		}
	}
}

// What the collector exports is what Stats tells.
func TestCollector(t *testing.T) {
	etcd, c, err := connect(machines, nil, "", "")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, etcd.Close())
	})
	r := c.Lock(etcdtest.NewName(), locker.DefaultValue, nil)
	require.NoError(t, r.Err)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector{c})
	scrape := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	require.Contains(t, scrape.Body.String(), "\nlocker_held 1\n")
	require.Contains(t, scrape.Body.String(), "\nlocker_acquired_total 1\n")
}

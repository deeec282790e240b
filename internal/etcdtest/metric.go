package etcdtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Metric is the sum of a metric of the members at these endpoints; its name is as they print it, with its labels.
func Metric(ctx context.Context, name string, endpoints ...string) (sum float64, err error) {
	for _, endpoint := range endpoints {
		value, err := metricAt(ctx, endpoint, name)
		if err != nil {
			return 0, fmt.Errorf("metric %s at %s: %w", name, endpoint, err)
		}
		sum += value
	}
	return sum, nil
}

func metricAt(ctx context.Context, endpoint, name string) (float64, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	req.Close = true // a connection that is kept would count as an open file, or not
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, found := strings.CutPrefix(lines.Text(), name+" "); found {
			return strconv.ParseFloat(value, 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, errors.New("there is none")
}

//! From the parser's tree to a [`Plan`]; whatever this version does not evaluate is refused here, by name.

use std::time::{Duration, SystemTime};

use anemone_model::METRIC_NAME;
use anemone_store::matcher::{MatchOp, Matcher};
use promql_parser::label;
use promql_parser::parser::token::{
    T_ADD, T_ATAN2, T_AVG, T_BOTTOMK, T_COUNT, T_DIV, T_EQLC, T_GROUP, T_GTE, T_GTR, T_LAND, T_LOR, T_LSS, T_LTE, T_LUNLESS, T_MAX, T_MIN,
    T_MOD, T_MUL, T_NEQ, T_POW, T_QUANTILE, T_STDDEV, T_STDVAR, T_SUB, T_SUM, T_TOPK, TokenType,
};
use promql_parser::parser::value::ValueType;
use promql_parser::parser::{
    AggregateExpr, AtModifier, BinModifier, BinaryExpr, Expr, LabelModifier, Offset, VectorMatchCardinality, VectorSelector,
};

use super::binary::Operator;
use super::functions;
use super::plan::{Aggregation, Cardinality, Grouping, Matching, Node, Plan, Selector, SetOperator, Steps};
use crate::error::QueryError;

/// Compiles a parsed query for evaluation at `steps`.
///
/// # Errors
/// [`QueryError::Unsupported`] naming the feature; [`QueryError::Syntax`] for what the parser lets through.
pub(crate) fn compile(expr: &Expr, steps: Steps) -> Result<Plan, QueryError> {
    let mut compiler = Compiler { steps, selectors: Vec::new() };
    let root = compiler.node(expr)?;
    Ok(Plan { root, selectors: compiler.selectors })
}

/// The matchers of a selector, the metric name among them.
///
/// # Errors
/// `or` between matchers, and patterns that do not compile.
pub(crate) fn matchers(selector: &VectorSelector) -> Result<Vec<Matcher>, QueryError> {
    if !selector.matchers.or_matchers.is_empty() {
        return Err(QueryError::unsupported("\"or\" between label matchers"));
    }
    let name = selector.name.as_ref().map(|name| Matcher::new(METRIC_NAME, MatchOp::Equal, name.as_str()));
    let others = selector.matchers.matchers.iter().map(|m| {
        let op = match m.op {
            label::MatchOp::Equal => MatchOp::Equal,
            label::MatchOp::NotEqual => MatchOp::NotEqual,
            label::MatchOp::Re(_) => MatchOp::Regex,
            label::MatchOp::NotRe(_) => MatchOp::NotRegex,
        };
        Matcher::new(m.name.as_str(), op, m.value.as_str())
    });
    name.into_iter().chain(others).collect::<Result<_, _>>().map_err(|e| syntax(e.to_string()))
}

fn syntax(message: impl Into<String>) -> QueryError {
    QueryError::Syntax { position: None, message: message.into() }
}

/// Milliseconds, saturating far beyond any time stored.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

fn epoch_millis(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

struct Compiler {
    steps: Steps,
    selectors: Vec<Selector>,
}

impl Compiler {
    fn node(&mut self, expr: &Expr) -> Result<Node, QueryError> {
        match expr {
            Expr::NumberLiteral(number) => Ok(Node::Number(number.val)),
            Expr::StringLiteral(text) => Ok(Node::Text(text.val.clone())),
            Expr::Paren(paren) => self.node(&paren.expr),
            Expr::Unary(unary) => match self.node(&unary.expr)? {
                Node::Number(number) => Ok(Node::Number(-number)),
                operand => Ok(Node::Negate(Box::new(operand))),
            },
            Expr::VectorSelector(selector) => Ok(Node::Instant(self.selector(selector, None)?)),
            Expr::MatrixSelector(matrix) => Ok(Node::Range(self.selector(&matrix.vs, Some(matrix.range))?)),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            Expr::Call(call) => {
                let function =
                    functions::find(call.func.name).ok_or_else(|| QueryError::unsupported(format!("function {}", call.func.name)))?;
                let arguments = call.args.args.iter().map(|a| self.node(a)).collect::<Result<_, _>>()?;
                Ok(Node::Call { function, arguments })
            }
            Expr::Subquery(_) => Err(QueryError::unsupported("a subquery")),
            Expr::Extension(extension) => Err(QueryError::unsupported(format!("extension {}", extension.expr.name()))),
        }
    }

    fn selector(&mut self, selector: &VectorSelector, range: Option<Duration>) -> Result<usize, QueryError> {
        let at_ms = selector.at.as_ref().map(|at| match at {
            AtModifier::Start => self.steps.start_ms,
            AtModifier::End => self.steps.end_ms(),
            AtModifier::At(time) => epoch_millis(*time),
        });
        let offset_ms = match &selector.offset {
            None => 0,
            Some(Offset::Pos(by)) => millis(*by),
            Some(Offset::Neg(by)) => -millis(*by),
        };
        self.selectors.push(Selector { matchers: matchers(selector)?, at_ms, offset_ms, range_ms: range.map(millis) });
        Ok(self.selectors.len() - 1)
    }

    fn binary(&mut self, binary: &BinaryExpr) -> Result<Node, QueryError> {
        let (left, right) = (Box::new(self.node(&binary.lhs)?), Box::new(self.node(&binary.rhs)?));
        let matching = matching(binary.modifier.as_ref())?;
        let vectors = binary.lhs.value_type() == ValueType::Vector && binary.rhs.value_type() == ValueType::Vector;
        if let Some(operator) = set_operator(binary.op) {
            return Ok(Node::Set { operator, left, right, matching });
        }
        if !vectors && (matching.on || matching.cardinality != Cardinality::OneToOne) {
            return Err(syntax("vector matching only allowed between instant vectors"));
        }
        let operator = operator(binary.op).ok_or_else(|| QueryError::unsupported(format!("operator {}", binary.op)))?;
        Ok(Node::Binary { operator, left, right, matching, bool_result: binary.return_bool() })
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr) -> Result<Node, QueryError> {
        let operator = aggregation(aggregate.op).ok_or_else(|| QueryError::unsupported(format!("aggregation {}", aggregate.op)))?;
        let grouping = match &aggregate.modifier {
            None => Grouping::By(Vec::new()),
            Some(LabelModifier::Include(labels)) => Grouping::By(labels.labels.clone()),
            Some(LabelModifier::Exclude(labels)) => Grouping::Without(labels.labels.clone()),
        };
        let takes_parameter = matches!(operator, Aggregation::Quantile | Aggregation::Topk | Aggregation::Bottomk);
        let parameter = match &aggregate.param {
            Some(parameter) if takes_parameter => Some(Box::new(self.node(parameter)?)),
            None if !takes_parameter => None,
            Some(_) => return Err(syntax(format!("aggregation {} takes no parameter", aggregate.op))),
            None => return Err(syntax(format!("aggregation {} needs a parameter", aggregate.op))),
        };
        Ok(Node::Aggregate { operator, operand: Box::new(self.node(&aggregate.expr)?), parameter, grouping })
    }
}

fn matching(modifier: Option<&BinModifier>) -> Result<Matching, QueryError> {
    let mut matching = Matching { on: false, labels: Vec::new(), cardinality: Cardinality::OneToOne, include: Vec::new() };
    let Some(modifier) = modifier else {
        return Ok(matching);
    };
    if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
        return Err(QueryError::unsupported("modifier fill"));
    }
    match &modifier.matching {
        None => {}
        Some(LabelModifier::Include(labels)) => (matching.on, matching.labels) = (true, labels.labels.clone()),
        Some(LabelModifier::Exclude(labels)) => matching.labels = labels.labels.clone(),
    }
    match &modifier.card {
        VectorMatchCardinality::OneToOne | VectorMatchCardinality::ManyToMany => {}
        VectorMatchCardinality::ManyToOne(include) => {
            (matching.cardinality, matching.include) = (Cardinality::ManyToOne, include.labels.clone());
        }
        VectorMatchCardinality::OneToMany(include) => {
            (matching.cardinality, matching.include) = (Cardinality::OneToMany, include.labels.clone());
        }
    }
    matching.labels.sort();
    Ok(matching)
}

fn set_operator(op: TokenType) -> Option<SetOperator> {
    match op.id() {
        T_LAND => Some(SetOperator::And),
        T_LOR => Some(SetOperator::Or),
        T_LUNLESS => Some(SetOperator::Unless),
        _ => None,
    }
}

fn operator(op: TokenType) -> Option<Operator> {
    Some(match op.id() {
        T_ADD => Operator::Add,
        T_SUB => Operator::Subtract,
        T_MUL => Operator::Multiply,
        T_DIV => Operator::Divide,
        T_MOD => Operator::Modulo,
        T_POW => Operator::Power,
        T_ATAN2 => Operator::Atan2,
        T_EQLC => Operator::Equal,
        T_NEQ => Operator::NotEqual,
        T_LSS => Operator::Less,
        T_LTE => Operator::LessOrEqual,
        T_GTR => Operator::Greater,
        T_GTE => Operator::GreaterOrEqual,
        _ => return None,
    })
}

fn aggregation(op: TokenType) -> Option<Aggregation> {
    Some(match op.id() {
        T_SUM => Aggregation::Sum,
        T_COUNT => Aggregation::Count,
        T_MAX => Aggregation::Max,
        T_MIN => Aggregation::Min,
        T_AVG => Aggregation::Avg,
        T_GROUP => Aggregation::Group,
        T_STDDEV => Aggregation::Stddev,
        T_STDVAR => Aggregation::Stdvar,
        T_QUANTILE => Aggregation::Quantile,
        T_TOPK => Aggregation::Topk,
        T_BOTTOMK => Aggregation::Bottomk,
        _ => return None,
    })
}
